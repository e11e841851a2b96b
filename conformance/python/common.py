"""What the agents of all Python clients share: the command line, events, and counting deliveries."""

import argparse
import json
import os
import sys
import threading
import time

# Whatever else prints must not mix with the events.
OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

# Seconds between two tries of what fails while the broker is away: that it is back is no event these clients report.
RETRY_SECS = 0.2
LOCK = threading.Lock()


def emit(event, **fields):
    with LOCK:
        OUT.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
        OUT.flush()


def options(commands):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=commands)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", default="")
    parser.add_argument("--filter", default="*")
    for name, default in (("lite-topics", ""), ("instance", ""), ("access-key", ""), ("secret-key", "")):
        parser.add_argument("--" + name, default=default)
    for name in ("tls", "stdin", "transactional", "fail-all", "orderly", "broadcasting", "ack-twice"):
        parser.add_argument("--" + name, action="store_true")
    for name, default in (("count", 0), ("deadline-secs", 60), ("invisible-secs", 30), ("change-invisible", 0),
                          ("batch", 16), ("cache", 64), ("fail-first", 0), ("fail-every", 0)):
        parser.add_argument("--" + name, type=int, default=default)
    return parser.parse_args()


class Driver:
    """Drives a client: each command is a method, which gives back what is to be shut down."""

    def __init__(self, given):
        self.given = given
        self.deadline = time.monotonic() + given.deadline_secs
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.deliveries = {}
        self.total = 0
        self.done = set()

    def startup(self, client):
        client.startup()

    def late(self):
        return time.monotonic() >= self.deadline

    def again(self):
        """Whether to try again, once it is time to: not after the deadline, nor when standard input has ended, which ends the wait."""
        return not self.late() and not self.ended.wait(RETRY_SECS)

    def start(self, create):
        """Starting fails while the broker is away or a topic is not known yet: try until the deadline."""
        while True:
            try:
                client = create()
                self.startup(client)
                emit("ready")
                return client
            except Exception as e:  # the client raises many kinds
                emit("start_failed", message=repr(e))
                if not self.again():
                    raise

    def end_with_standard_input(self):
        def watch():
            while os.read(0, 4096):
                pass
            self.ended.set()
        threading.Thread(target=watch, daemon=True).start()

    def delivered(self, message_id):
        with self.lock:
            self.deliveries[message_id] = self.deliveries.get(message_id, 0) + 1
            self.total += 1
            return self.deliveries[message_id], self.total

    def fails(self, delivery):
        return self.given.fail_all or delivery <= self.given.fail_first

    def finished(self):
        return self.given.count > 0 and len(self.done) >= self.given.count

    def fails_now(self, message_id):
        """Whether the delivery that has just come is one to fail; and counts it."""
        delivery, number = self.delivered(message_id)
        every = self.given.fail_every
        return self.fails(delivery) or (every > 0 and number % every == 0)

    def succeeded(self, message_id):
        with self.lock:
            self.done.add(message_id)
            if self.finished():
                self.ended.set()

    def await_end(self):
        self.ended.wait(max(0.0, self.deadline - time.monotonic()))

    def lines(self):
        if self.given.stdin:
            return (json.loads(line) for line in sys.stdin.buffer)
        return ({"body": f"message {n}"} for n in range(self.given.count))


def body(line):
    return bytes.fromhex(line["body_hex"]) if "body_hex" in line else line["body"].encode()


def run(driver):
    try:
        client = getattr(driver, driver.given.command.replace("-", "_"))()
        closer = threading.Thread(target=client.shutdown, daemon=True)
        closer.start()
        closer.join(3)  # a broker that is away must not hold the agent
        emit("done")
    except Exception as e:
        print(repr(e), file=sys.stderr)
        os._exit(1)
    # The client's own threads must not keep a finished agent alive.
    os._exit(0)
