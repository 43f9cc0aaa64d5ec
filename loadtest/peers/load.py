"""The same load on any server: each user sends to the next one, closed or open loop, on one thread.

A user is a connection with `socket`, `unsent` (a bytearray), `messages(first, count)`, the bytes of so many messages,
and `read(data)`, how many messages arrived with these bytes, and of how many of its own they are the acceptance.
"""

import collections
import select
import statistics
import time

from . import machine

LATE_S = 0.005


class Flow:
    """From one user to the next. All is answered in order, so that counting is enough to tell messages apart."""

    def __init__(self):
        self.sent = 0
        self.waiting = {"accepted": collections.deque(), "delivered": collections.deque()}


class Load:
    def __init__(self, users, kinds, pids):
        """Of `kinds`, "accepted" or "delivered", the first is what the sender waits for and what the figures are of."""
        self.users, self.kinds, self.pids = users, kinds, pids
        self.flows = [Flow() for _ in users]
        self.answered = dict.fromkeys(kinds, 0)
        self.latencies = {kind: [] for kind in kinds}
        self.late = self.sends = 0
        self.epoll = select.epoll()
        for user in users:
            user.socket.setblocking(False)
            self.epoll.register(user.socket, select.EPOLLIN)
        self.numbers = {user.socket.fileno(): number for number, user in enumerate(users)}

    def run(self, warm_up, seconds, window=None, rate=None, limit=None, patience=60):
        """With a limit it ends when so many have been answered, without one after these seconds."""
        self.limit, self.began = limit, time.monotonic()
        self.measured = self.began + warm_up, self.began + warm_up + (patience * 5 if limit else seconds)
        before = after = None
        if not rate:
            for number in range(len(self.users)):
                self.send(number, [self.began] * window)
        while True:
            now = time.monotonic()
            if before is None and now >= self.measured[0]:
                before = self.reading()
            if after is None and (now >= self.measured[1] or limit and self.done()):
                after = self.reading()
            if after and (self.done() or now > after["at"] + patience):
                return self.result(before, after)
            if rate and after is None:
                self.send_what_is_due(now, rate)
            for descriptor, event in self.wait(rate):
                number = self.numbers[descriptor]
                if event & ~select.EPOLLOUT:
                    freed = self.receive(number)
                    if freed and not rate and after is None:
                        self.send(freed[0], [time.monotonic()] * freed[1])
                if event & select.EPOLLOUT:
                    self.flush(number)

    def done(self):
        sent = sum(flow.sent for flow in self.flows)
        return sent >= (self.limit or 1) and not any(flow.waiting[kind] for flow in self.flows for kind in self.kinds)

    def wait(self, rate):
        if not rate:
            return self.epoll.poll(0.05)
        # select sleeps to the microsecond, epoll to the millisecond.
        due = self.began + sum(flow.sent for flow in self.flows) / rate
        select.select([self.epoll], [], [], min(max(due - time.monotonic(), 0), 0.05))
        return self.epoll.poll(0)

    def send_what_is_due(self, now, rate):
        number = sum(flow.sent for flow in self.flows)
        while (due := self.began + number / rate) <= now and number < (self.limit or number + 1):
            self.late += now - due > LATE_S
            self.send(number % len(self.users), [due])
            number += 1

    def send(self, number, times):
        user, flow = self.users[number], self.flows[number]
        if self.limit:
            # Divided evenly, so that no sender has to know of the others.
            times = times[: max(self.limit // len(self.users) - flow.sent, 0)]
        if times:
            for kind in self.kinds:
                flow.waiting[kind].extend(times)
            user.unsent += user.messages(flow.sent, len(times))
            flow.sent += len(times)
            self.sends += 1
            self.flush(number)

    def flush(self, number):
        user = self.users[number]
        try:
            del user.unsent[: user.socket.send(user.unsent)]
        except BlockingIOError:
            pass
        self.epoll.modify(user.socket, select.EPOLLIN | (select.EPOLLOUT if user.unsent else 0))

    def receive(self, number):
        """Whose window has room again for how many."""
        user = self.users[number]
        data = user.socket.recv(1 << 18)
        if not data:
            raise SystemExit(f"the server closed the connection of user {number}")
        arrived, accepted = user.read(data)
        if user.unsent:
            self.flush(number)
        counts = {"accepted": (number, accepted), "delivered": ((number - 1) % len(self.users), arrived)}
        now = time.monotonic()
        for kind in self.kinds:
            of, count = counts[kind]
            self.answered[kind] += count
            if count > len(self.flows[of].waiting[kind]):
                raise SystemExit(f"more messages of user {of} were {kind} than were sent")
            for _ in range(count):
                sent = self.flows[of].waiting[kind].popleft()
                if self.measured[0] <= sent < self.measured[1]:
                    self.latencies[kind].append(now - sent)
        return counts[self.kinds[0]] if counts[self.kinds[0]][1] else None

    def reading(self):
        return {
            "at": time.monotonic(),
            "count": self.answered[self.kinds[0]],
            "servers_us": machine.cpu_us(self.pids),
            "generator_us": time.process_time() * 1e6,
            "machine_us": machine.machine_us(),
        }

    def result(self, before, after):
        took_us = (after["at"] - before["at"]) * 1e6
        count = after["count"] - before["count"]
        used = {name: after[name] - before[name] for name in ("servers_us", "generator_us", "machine_us")}
        sent = sum(flow.sent for flow in self.flows)
        remarks = []
        if used["generator_us"] > 0.85 * took_us:
            remarks.append("the generator was the limit: the rate is the generator's")
        if self.late > sent / 100:
            remarks.append(f"the generator sent {self.late:,} of {sent:,} late")
        for kind in self.kinds:
            if missing := sum(len(flow.waiting[kind]) for flow in self.flows):
                remarks.append(f"{missing:,} of {sent:,} were not {kind}")
        return {
            "rate": count / took_us * 1e6,
            "cpu_us": used["servers_us"] / max(count, 1),
            "latencies_ms": {kind: quantiles(found) for kind, found in self.latencies.items() if len(found) > 1},
            "messages_sent_together": sent / max(self.sends, 1),
            "generator_cores": used["generator_us"] / took_us,
            "others_cores": (used["machine_us"] - used["servers_us"] - used["generator_us"]) / took_us,
            "remarks": remarks,
        }


def quantiles(seconds):
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": cuts[49] * 1000, "p99": cuts[98] * 1000}
