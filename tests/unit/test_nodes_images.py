"""What is found in a node's folders: a strange name must not hide the node."""

import os

from nodes.contract.messages import Inventory
from nodes.images import Scanner
from nodes.shell import Shell


def test_a_file_whose_name_is_no_text_is_left_out_and_the_others_are_found(tmp_path):
    for name in ("диск.iso".encode("cp1251"), b"bell\x07.iso", b"good.iso", "хорошо.iso".encode()):
        (tmp_path / os.fsdecode(name)).touch()
    images, isos = Scanner(Shell()).scan(tmp_path, tmp_path)
    assert images == ()
    assert [iso.name for iso in isos] == ["good.iso", "хорошо.iso"]
    Inventory.model_construct(isos=isos).model_dump_json()
