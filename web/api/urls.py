"""``/api/v1/``"""

from django.urls import URLPattern, path, re_path, register_converter

from cluster.saga.steps import Operation

from .jobs import WORDS, JobWordView
from .nouns import NOUNS
from .operations import CreatingListView, OperationView
from .schema import DocsView, SchemaView
from .uploads import LibraryListView, UploadView
from .views import ActionsView, DetailView, ListView, OsView, RebootOrderView, RolesView, SessionView, Unknown
from .writes import (
    AffinityGroupsView,
    AffinityGroupView,
    BalancingView,
    ImageView,
    NetworksView,
    NodeGroupsView,
    NodeGroupView,
    NodesView,
    NodeTokenView,
    NodeView,
    PoolView,
    SchedulesView,
    ScheduleView,
    VmView,
)


class IdConverter:
    """Anything that could be an id; other addresses are not known at all."""

    regex = "[a-z0-9]{1,18}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class NumberConverter(IdConverter):
    """Ids of the journal; as many digits as its column holds."""

    regex = "[0-9]{1,18}"


register_converter(IdConverter, "id")
register_converter(NumberConverter, "number")

LISTS = {
    "nodes": NodesView,
    "node-groups": NodeGroupsView,
    "affinity-groups": AffinityGroupsView,
    "networks": NetworksView,
    "schedules": SchedulesView,
    "images": LibraryListView,
    "isos": LibraryListView,
}
DETAILS = {
    "vms": VmView,
    "nodes": NodeView,
    "node-groups": NodeGroupView,
    "affinity-groups": AffinityGroupView,
    "images": ImageView,
    "pools": PoolView,
    "schedules": ScheduleView,
    "uploads": UploadView,
}


def _nouns() -> list[URLPattern]:
    creating = {o.noun: o for o in Operation.registry.values() if o.creates and o.noun not in LISTS}
    patterns = []
    for name, noun in NOUNS.items():
        if name in creating:
            view = CreatingListView.as_view(noun=noun, operation=creating[name])
        else:
            view = LISTS.get(name, ListView).as_view(noun=noun)
        patterns += [
            path(f"{name}/", view),
            path(f"{name}/<{noun.id_kind}:pk>/", DETAILS.get(name, DetailView).as_view(noun=noun)),
        ]
    return patterns


def _operations() -> list[URLPattern]:
    asked_of_one = [operation for operation in Operation.registry.values() if not operation.creates]
    # A POST to the list itself is something else there.
    creating = [operation for operation in Operation.registry.values() if operation.creates and operation.noun in LISTS]
    nouns = sorted({operation.noun for operation in asked_of_one})
    return [
        *(path(f"{o.noun}/{o.name()}/", OperationView.as_view(operation=o)) for o in creating),
        *(path(f"{noun}/<id:pk>/actions/", ActionsView.as_view(noun=noun)) for noun in nouns),
        *(path(f"{o.noun}/<id:pk>/{o.name()}/", OperationView.as_view(operation=o)) for o in asked_of_one),
    ]


urlpatterns = [
    path("nodes/reboot_order/", RebootOrderView.as_view()),
    *_operations(),
    *_nouns(),
    *(path(f"jobs/<id:pk>/{word.code}/", JobWordView.as_view(word=word)) for word in WORDS),
    path("nodes/<id:pk>/token/", NodeTokenView.as_view()),
    path("balancing/", BalancingView.as_view()),
    path("roles/", RolesView.as_view()),
    path("os/", OsView.as_view()),
    path("session/", SessionView.as_view()),
    path("schema/", SchemaView.as_view(), name="schema"),
    path("docs/", DocsView.as_view(), name="docs"),
    re_path("", Unknown.as_view()),
]
