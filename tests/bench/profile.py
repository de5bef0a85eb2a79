"""Where the time of a create goes: notes of web, conductor and agent, laid side by side.

Every moment between the POST and the websocket's ``running`` belongs to exactly one part, so the parts add up to the
whole. Messages and answers pass through these points (nodes/contract/faults.py), once for each of the job's verbs::

    conductor.read -> conductor.after-store -> engine.after-commit:vm.create -> agent.taken:<verb>
    -> domain.before-call, domain.after-call (or disk.part-made, disk.linked) -> agent.reply-written:<verb> -> ...
"""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.bench.bench import Bench
from tests.bench.notes import Note, Notes
from tests.bench.report import markdown_table, number, text_table
from tests.bench.rows.lifecycle import NODE

POINTS = [
    "start.before-commit",
    "start.after-commit",
    "conductor.read",
    "conductor.before-store",
    "conductor.after-store",
    "engine.before-commit",
    "engine.after-commit",
    "agent.taken",
    "agent.started-written",
    "agent.effect-done",
    "agent.reply-written",
    "agent.reply-sent",
    "domain.before-call",
    "domain.after-call",
    "disk.part-made",
    "disk.linked",
    "disk.unlinked",
]
TOOLS = (("domain.before-call", "domain.after-call"), ("disk.part-made", "disk.linked"))
SAID = {
    "web": "web: POST sent to committed",
    "wake-up": "wake-up: committed to read by the conductor",
    "conductor": "conductor: read or stored to committed (engine, rows, numbers)",
    "queue": "queue: committed to taken by the agent (message made, Celery, Redis)",
    "agent": "agent: taken to answer written, without the tools",
    "tools": "qemu-img and libvirt's calls",
    "stream": "stream: answer written to read by the conductor",
    "store": "conductor's store: read to stored",
    "socket": "socket: last commit to the frame at the client",
}
WARM_UP = 2


@dataclass
class Parts:
    """Milliseconds of one create."""

    whole: float = 0.0
    by_part: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SAID, 0.0))
    by_verb: dict[str, dict[str, float]] = field(default_factory=dict)
    """verb -> ``{"agent": ..., "tools": ...}``"""

    def add(self, part: str, began: float, ended: float) -> None:
        self.by_part[part] += (ended - began) * 1000


def parts_of(notes: list[Note], began: float, ended: float) -> Parts:
    """Of one create's notes; nothing else went on meanwhile.

    Told backwards: each commit of the engine was brought about by an answer, and that by a message which an earlier
    commit had sent. Of verbs that ran beside each other the last to answer is on this way.
    """
    found = Parts(whole=(ended - began) * 1000)
    sent = _last(notes, "engine.after-commit", ended).at
    found.add("socket", sent, ended)
    while True:
        advanced = _last(notes, "engine.before-commit", sent).at
        answers = [note for note in notes if note.point == "agent.reply-written" and note.at < advanced]
        if not answers:
            break
        stored = _last(notes, "conductor.after-store", advanced).at
        read = _last(notes, "conductor.read", stored).at
        written = _last(notes, "agent.reply-written", read)
        taken = _last(notes, "agent.taken", written.at, written.detail)
        found.add("conductor", stored, sent)
        found.add("store", read, stored)
        found.add("stream", written.at, read)
        agent, tools = _work_ms(notes, taken.at, written)
        found.by_part["agent"] += agent
        found.by_part["tools"] += tools
        sent = _last(notes, "engine.after-commit", taken.at).at
        found.add("queue", sent, taken.at)
    # The conductor is woken by the commit itself, so it may read before web comes by the point after it.
    read = _last(notes, "conductor.read", advanced).at
    committed = min(_first(notes, "start.after-commit", began).at, read)
    found.add("web", began, committed)
    found.add("wake-up", committed, read)
    found.add("conductor", read, sent)
    for taken in (note for note in notes if note.point == "agent.taken"):
        written = next(n for n in notes if n.at >= taken.at and (n.point, n.detail) == (_WRITTEN, taken.detail))
        agent, tools = _work_ms(notes, taken.at, written)
        found.by_verb[taken.detail] = {"agent": agent, "tools": tools}
    return found


_WRITTEN = "agent.reply-written"


def _work_ms(notes: list[Note], taken: float, written: Note) -> tuple[float, float]:
    """The agent's own time of one verb, and that of the tools it waited for."""
    tools_ms = _tools_ms(notes, taken, written)
    return (written.at - taken) * 1000 - tools_ms, tools_ms


def _tools_ms(notes: list[Note], began: float, written: Note) -> float:
    """libvirt's calls tell the verb; what a disk passes is told of no other verb."""
    within = [note for note in notes if began <= note.at <= written.at]
    return 1000 * sum(
        (-1 if note.point == first else 1) * note.at
        for first, last in TOOLS
        for note in within
        if note.point in (first, last) and (note.detail == written.detail or written.detail == "disk.create")
    )


def _first(notes: list[Note], point: str, since: float) -> Note:
    return next(note for note in notes if note.point == point and note.at >= since)


def _last(notes: list[Note], point: str, until: float, detail: str = "") -> Note:
    return next(
        note
        for note in reversed(notes)
        if note.point == point and note.at <= until and (not detail or note.detail == detail)
    )


def measure(bench: Bench, creates: int) -> tuple[list[str], dict[str, Any]]:
    """The report's parts, and the raw numbers."""
    lab = bench.lab
    notes = Notes(lab, ["web", "conductor", f"{NODE}.agent"], POINTS)
    found: list[Parts] = []
    bench.settle_on(NODE)
    with notes.taken():
        node = lab.node_id(NODE)
        listener = bench.listener
        for number_ in range(creates + WARM_UP):
            body = lab.vm_body(f"profiled{number_}", node=node)
            bench.wait_quiet()
            told = bench.caller.post("vms/", body)
            vm = told.body["vm"]["id"]
            ended = listener.vm(vm, "running", told.began)
            listener.job_ends(told.body["job"]["id"])
            taken = [note for note in notes.read(told.began) if note.at <= ended + 0.05]
            if number_ >= WARM_UP:
                found.append(parts_of(taken, told.began, ended))
            lab.api.do(f"vms/{vm}/delete/", {"disks": True})
    return _said(found), {"creates": [{"whole": p.whole, "parts": p.by_part, "verbs": p.by_verb} for p in found]}


def _said(found: list[Parts]) -> list[str]:
    whole = median(parts.whole for parts in found)
    lines = [(said, *_both([parts.by_part[part] for parts in found], whole)) for part, said in SAID.items()]
    lines.append(("from the POST to `running` at the client", number(whole), "100 %"))
    head = ("part", "median ms", "of the whole")
    verbs = list(found[0].by_verb)
    verb_lines = [
        (verb, *(number(median(parts.by_verb[verb][kind] for parts in found)) for kind in ("agent", "tools")))
        for verb in verbs
    ]
    verb_head = ("verb", "agent, ms", "qemu-img or libvirt, ms")
    print(text_table(head, lines) + "\n\n" + text_table(verb_head, verb_lines))
    largest = sorted(lines[:-1], key=lambda line: -float(line[1].replace(",", "")))[:3]
    return [
        f"{len(found)} creates from an image on a quiet lab of two nodes, on a node with one guest that is off. Of"
        " verbs beside each other the last to answer counts. Medians of the parts need not add up to the median of the"
        " whole. qemu-img's part has the volume's fsync in it. The processes look for one file at each named point"
        " they pass and write a line there: some 20 µs a point.",
        markdown_table(head, lines),
        "The three largest: " + "; ".join(f"{said} ({ms} ms)" for said, ms, _ in largest) + ".",
        "## The agent's part by verb",
        markdown_table(verb_head, verb_lines),
    ]


def _both(values: list[float], whole: float) -> tuple[str, str]:
    return number(median(values)), f"{median(values) / whole * 100:.0f} %"
