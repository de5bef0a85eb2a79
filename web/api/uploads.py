"""Images and ISOs that come in chunks: promised by ``POST images/`` or ``isos/``, sent by ``PUT uploads/<id>/``."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.request import Request
from rest_framework.response import Response

from cluster import library, uploads
from cluster.refusals import BadShape
from nodes.contract.sizes import MAX_BYTES
from nodes.contract.specs import FileName

from . import bodies, queries, rows, serializers
from .errors import TooLarge
from .schema import Described, body_of, parameter
from .views import DetailView, ListView
from .writes import WriteView

MAX_CHUNK_BYTES = 16 << 20
BINARY = "application/octet-stream"


class UploadBegin(bodies.Shape):
    name: FileName
    size_bytes: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    checksum: Annotated[str, StringConstraints(to_lower=True, pattern=r"^((sha256:)?[0-9A-Fa-f]{64})?$")] = ""
    os: Annotated[str, StringConstraints(max_length=40)] = ""


class LibraryListView(ListView, WriteView):
    """``GET POST /api/v1/images/`` and ``isos/``"""

    def post(self, request: Request) -> Response:
        said = self.said(request, "image.add", UploadBegin)
        digest = said.checksum.removeprefix("sha256:")
        upload = uploads.begin(
            self.actor,
            "image" if self.noun.name == "images" else "iso",
            said.name,
            said.size_bytes,
            checksum=digest and "sha256:" + digest,
            os=said.os,
        )
        headers = {"Location": f"/api/v1/uploads/{upload.pk}/"}
        return Response(rows.uploads(self.actor, [upload])[0], 201, headers=headers)

    def describe(self, method: str) -> Described:
        if method != "POST":
            return super().describe(method)
        kind = self.noun.name.removesuffix("s")
        return Described(
            f"{kind}_add",
            f"Begin to upload an {kind}: its bytes follow by PUT uploads/<id>/",
            serializers.UploadSerializer,
            status=201,
            description="The checksum is sha256 in hexadecimal, compared when the file is whole; without one it is"
            " computed. The answer's id is the one that the " + kind + " will have.",
            body=body_of(UploadBegin, f"{kind}.add"),
        )


class UploadView(DetailView, WriteView):
    """``GET PUT DELETE /api/v1/uploads/<id>/``"""

    def put(self, request: Request, pk: str) -> Response:
        upload = self.row(pk)
        self.actor.require("image.add")
        offset = _offset(request)
        _check_chunk(request)
        kept = uploads.append(self.actor, upload, offset, request._request.read)
        if kept is None:
            return Response(rows.upload(upload, library.received_bytes(pk)))
        headers = {"Location": f"/api/v1/{upload.kind}s/{pk}/"}
        return Response(rows.upload(upload, upload.size_bytes), 201, headers=headers)

    def delete(self, request: Request, pk: str) -> Response:
        upload = self.row(pk)
        self.actor.require("image.add")
        queries.only(request.query_params)
        row = rows.uploads(self.actor, [upload])[0]
        uploads.drop(self.actor, upload)
        return Response(row)

    def describe(self, method: str) -> Described:
        if method == "DELETE":
            return Described("upload_drop", "Give an upload up", serializers.UploadSerializer)
        if method != "PUT":
            return super().describe(method)
        return Described(
            "upload_append",
            "Send the next chunk of an upload",
            serializers.UploadSerializer,
            description=f"The body is the chunk itself ({BINARY}, at most {MAX_CHUNK_BYTES} bytes). A chunk that does"
            " not begin where the file ends is refused as upload_wrong_offset: GET says where to go on. The last"
            " chunk is answered with 201 when the file has been looked at; a file that is refused is deleted.",
            query=(parameter("offset", "Where in the file the chunk begins.", type="integer", minimum=0, default=0),),
            body={"type": "string", "format": "binary"},
            body_type=BINARY,
            answers={201: serializers.UploadSerializer},
        )


def _offset(request: Request) -> int:
    queries.only(request.query_params, "offset")
    text = request.query_params.get("offset", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadShape({"offset": ["a number of bytes"]})
    return int(text)


def _check_chunk(request: Request) -> None:
    declared = request.headers.get("Content-Length") or "0"
    if not declared.isdigit():
        raise BadShape({"Content-Length": ["a number of bytes"]})
    if int(declared) > MAX_CHUNK_BYTES:
        raise TooLarge
    media_type: Any = (request.content_type or "").split(";")[0].strip().lower()
    if int(declared) > 0 and media_type != BINARY:
        raise UnsupportedMediaType(media_type)
