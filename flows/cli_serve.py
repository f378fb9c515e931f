"""`textmill serve`: models of the registry over HTTP."""

from typing import Annotated

import typer

from flows.terminal import console

app = typer.Typer()


@app.command()
def serve(
    models: Annotated[list[str], typer.Argument(help="textmill-sample@champion, kind/name, ...")],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="NAME:PORT it is also reached by (repeatable).")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    rows: Annotated[int, typer.Option(help="Continuations at once, per model.")] = 16,
    queue: Annotated[int, typer.Option(help="Continuations that may wait, per model.")] = 128,
    seconds: Annotated[float, typer.Option(help="Deadline of a request.")] = 120.0,
    poll: Annotated[float, typer.Option(help="Seconds between two looks at an alias.")] = 5.0,
    stop_seconds: Annotated[int, typer.Option(help="To finish requests at SIGTERM.")] = 30,
) -> None:
    """Serve models over HTTP: OpenAI's completions, scores, task predictions.

    An alias is followed without a restart. The token is the part after the colon in
    .textmill/secret.
    """
    from flows.settings import enter

    ws = enter()
    import torch

    from flows import serving
    from flows.supervise import port_is_free
    from modules.serving.app import build
    from modules.serving.limits import Limits
    from modules.serving.slots import Slot

    if not port_is_free(port):
        raise ValueError(f"port {port} is taken; choose another one with --port")
    if threads:
        torch.set_num_threads(threads)
    limits = Limits(rows=rows, queue=queue, seconds=seconds)
    slots = [Slot(name, serving.load(ws, name, limits)) for name in dict.fromkeys(models)]
    names = [f"{host}:{port}", f"127.0.0.1:{port}", f"localhost:{port}", *(allowed_host or [])]
    follower = serving.Follower(ws, slots, limits, poll)
    follower.start()
    console.print(f"Serving {', '.join(s.name for s in slots)} at http://{host}:{port}")
    serving.run(serving.guarded(ws, build(slots, limits), names), host, port, stop_seconds)
    follower.stop.set()
    console.print("stopped")
