"""One process of a training by several: ``python -m prosma_core.engine.rank``, started by `prosma_core.engine.ranks`.

The first one writes what the training reports to its output, as a job of the engine does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, BinaryIO

from prosma_core.engine import guardian

if TYPE_CHECKING:
    from prosma_core.engine.messages import TrainRequest


def main() -> None:
    """Train with the other processes."""
    requests, replies = guardian.private_pipes()
    guardian.end_with_parent(at_once=True)
    from prosma_core.engine.messages import TrainRequest, read_lines

    request = TrainRequest.model_validate_json(next(iter(read_lines(requests))))
    os._exit(train_with_others(request, replies))  # threads of the exchange may be held up by a process that is gone


def train_with_others(request: TrainRequest, replies: BinaryIO) -> int:
    """Train; exit code of this process."""
    from prosma_core.engine.handlers import train_result
    from prosma_core.engine.messages import Failed, Finished, Message, Said, encode
    from prosma_core.errors import EngineError, ProsmaError
    from prosma_core.events import Event, drain
    from prosma_core.inference.device import choose_device, name_memory_errors
    from prosma_core.training.loop import train
    from prosma_core.training.processes import joined

    def tell(message: Message) -> None:
        replies.write(encode(Said.of(0, message)))
        replies.flush()

    first = os.environ["RANK"] == "0"
    if not first:
        logging.getLogger().addHandler(logging.NullHandler())  # the first logs
    try:
        with joined() as group:

            def show(event: Event) -> None:
                if first:
                    tell(event)
                group.check_stop()

            with name_memory_errors():
                result = drain(train(request.run, resume=request.resume, group=group), show)
    except KeyboardInterrupt:
        return 1
    except ProsmaError as error:
        if first:
            tell(Failed(error, traceback.format_exc()))
        else:
            sys.stderr.write(f"{error}\n")  # read where the first one cannot tell why
        return 1
    except Exception as error:  # noqa: BLE001  (whatever it is, the person hears of it)
        traceback.print_exc()
        if first:
            words = f"An unexpected error: {type(error).__name__}: {error}. The log has the details."
            tell(Failed(EngineError(words), traceback.format_exc()))
        return 1
    if first:
        tell(Finished(train_result(result, choose_device(request.run.device).reason, 0.0)))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
