"""Copies of images and ISOs that the panel keeps. All the care is in :mod:`nodes.library`."""

from nodes import library
from nodes.contract.messages import (
    FileContent,
    FileDelete,
    FileDownload,
    FileFetch,
    FileLook,
    FileMake,
    FileSend,
    FileState,
    Nothing,
)
from nodes.node import Node
from nodes.verbs import handles
from nodes.verbs.run import Run


@handles(FileFetch)
def fetch(node: Node, message: FileFetch, run: Run) -> Nothing:
    library.fetch(node, message, run)
    return Nothing()


@handles(FileDownload)
def download(node: Node, message: FileDownload, run: Run) -> FileContent:
    return library.download(node, message, run)


@handles(FileMake)
def make(node: Node, message: FileMake, run: Run) -> FileContent:
    return library.make(node, message, run)


@handles(FileSend)
def send(node: Node, message: FileSend, run: Run) -> Nothing:
    library.send(node, message, run)
    return Nothing()


@handles(FileDelete)
def delete(node: Node, message: FileDelete, run: Run) -> Nothing:
    library.delete(node, message)
    return Nothing()


@handles(FileLook)
def look(node: Node, message: FileLook, run: Run) -> FileState:
    return library.look(node, message)
