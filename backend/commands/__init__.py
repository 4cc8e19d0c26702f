"""The commands that the service adds to ``ebseg``, and the table by which it finds them."""

from ebseg.commands import Command

COMMANDS = {
    "bench": Command("backend.commands.bench:app", "Measure how fast things are."),
    "demo": Command(
        "backend.commands.demo:app",
        "Start Label Studio with a project whose pictures carry EBSeg's masks; Ctrl-C ends it.",
    ),
    "doctor": Command(
        "backend.commands.doctor:app",
        "Walk the way of a photo: service, Label Studio, token, projects, learning loop, this machine.",
    ),
    "serve": Command("backend.commands.serve:app", "Serve predictions to Label Studio until stopped."),
}
