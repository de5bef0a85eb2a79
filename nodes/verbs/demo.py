"""The demo operation's harmless effect."""

from nodes.contract.messages import DemoMark, DemoUnmark, Nothing
from nodes.files import fsync_folder, write_atomically
from nodes.node import Node
from nodes.verbs import handles
from nodes.verbs.run import Run


@handles(DemoMark)
def mark(node: Node, message: DemoMark, run: Run) -> Nothing:
    write_atomically(node.paths.demo_dir / message.id, "")
    return Nothing()


@handles(DemoUnmark)
def unmark(node: Node, message: DemoUnmark, run: Run) -> Nothing:
    folder = node.paths.demo_dir
    if folder.exists():
        (folder / message.id).unlink(missing_ok=True)
        fsync_folder(folder)
    return Nothing()
