"""Clients that each break one rule of docs/protocol.md, made of the right one: `python3 wrong_clients.py NAME`. The scene about the rule
must fail for them."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "docs/examples/drivers"))
from driver import Driver  # noqa: E402

# By the scene that must fail.
WRONG = {}


def fails(*scenes):
    def add(client):
        for scene in scenes:
            WRONG[f"{client.__name__}/{scene}"] = (client, scene)
        return client

    return add


@fails("sign-in")
class SpeaksFirst(Driver):
    def sign_in(self):
        self.send({"ping": {"nonce": "1"}})
        super().sign_in()


@fails("sign-in-numbers")
class CountsNothing(Driver):
    def sign_in(self):
        self.attempt = 1
        super().sign_in()


@fails("wrong-credential", "bye-for-good")
class ComesBackForEver(Driver):
    def end(self, why):
        self.show(shown="ended", why=why)
        self.lost(after=0.1)


@fails("password-signature")
class TrustsAnybody(Driver):
    def trusts(self, final):
        return True


@fails("ticket")
class ForgetsTickets(Driver):
    def sign_in(self):
        self.ticket = None
        super().sign_in()


@fails("ticket-refused")
class SpeaksBehindTicket(Driver):
    def sign_in(self):
        super().sign_in()
        self.signed_in = self.ticket_given


@fails("ticket-refused", "ticket-unknown")
class KeepsTicket(Driver):
    def on_refused(self, refused):
        if "clientId" in refused or "request" in refused:
            super().on_refused(refused)
        else:
            self.sign_in()

    def on_bye(self, bye):
        self.ticket_given = False
        super().on_bye(bye)


@fails("renewal-refused")
class UsesAnyToken(Driver):
    def do(self, line):
        super().do(line)
        if line["do"] == "renew":
            self.start["token"] = line["token"]


@fails("position-once")
class ShowsTwice(Driver):
    def is_next(self, position):
        return int(position["seq"]) <= self.kept["seq"] + 1


@fails("position-of-own", "position-ahead", "position-ahead-lost", "trimmed", "history", "gap")
class ForgetsPositions(Driver):
    def sign_in(self):
        kept, self.kept = self.kept, {**self.kept, "epoch": "0"}
        super().sign_in()
        self.kept = kept


@fails("position-ahead", "position-ahead-lost")
class TakesLaterPositions(Driver):
    def on_accepted(self, accepted):
        super().on_accepted(accepted)
        if int(accepted["position"]["seq"]) > self.kept["seq"]:
            self.kept.update(epoch=accepted["position"]["epoch"], seq=int(accepted["position"]["seq"]))


@fails("gap")
class TakesGaps(Driver):
    def is_next(self, position):
        return int(position["seq"]) > self.kept["seq"]


@fails("another-epoch")
class KeepsOldLife(Driver):
    def begins(self, epoch, seq):
        if self.kept["epoch"] == "0":
            super().begins(epoch, seq)
        else:
            self.kept.update(epoch=epoch, seq=seq)


@fails("half-frame")
class EndsWithTheConnection(Driver):
    def lost(self, after=None):
        sys.exit(1)


@fails("acknowledge-what-is-safe")
class AcknowledgesFirst(Driver):
    def save(self):
        pass


@fails("history")
class ShowsHistoryTwice(Driver):
    def on_page(self, answer):
        entries = sorted(answer["page"].get("entries", []), key=lambda entry: int(entry["seq"]))
        self.show(shown="history", texts=[entry["envelope"]["content"]["text"]["body"] for entry in entries])


@fails("send-again", "answer-lost", "bye-drain", "refused-for-now")
class NewIdEachTime(Driver):
    def send_message(self, message, after):
        self.kept["written"] += 1
        message["id"] = self.new_id()
        super().send_message(message, "")


@fails("send-again")
class Reorders(Driver):
    def lost(self, after=None):
        super().lost(after)
        self.kept["outbox"].reverse()


@fails("refused-for-now", "rate", "after-a-refused-one")
class TriesAtOnce(Driver):
    def on_refused(self, refused):
        super().on_refused({**refused, "retryAfterMs": 0})


@fails("refused-for-good")
class TriesForEver(Driver):
    def on_refused(self, refused):
        self.show(**{"shown": "failed", "as": self.outgoing(refused["clientId"])["as"], "code": refused["code"]})
        super().on_refused({**refused, "retry": True, "retryAfterMs": 100})


@fails("after-a-refused-one")
class NamesTheRefused(Driver):
    first = ""

    def send_message(self, message, after):
        super().send_message(message, self.first)
        self.first = self.first or message["id"]


@fails("window")
class SendsEverything(Driver):
    def pump(self):
        self.window = 100
        super().pump()


@fails("outbox")
class ForgetsOutbox(Driver):
    def do(self, line):
        super().do(line)
        if line["do"] == "start":
            self.kept["outbox"] = []


@fails("ids-after-a-start")
class CountsAnew(Driver):
    def do(self, line):
        super().do(line)
        if line["do"] == "start":
            self.kept["written"] = 0


@fails("heartbeat")
class KeepsSilent(Driver):
    def on_signed_in(self, signed_in):
        super().on_signed_in({**signed_in, "heartbeatMs": 60000})


@fails("bye-drain")
class ComesBackEarly(Driver):
    def on_bye(self, bye):
        self.lost(after=0)


@fails("sign-out")
class SpeaksAfterSignOut(Driver):
    def do(self, line):
        super().do(line)
        if line["do"] == "stop":
            self.send({"ping": {"nonce": "2"}})


@fails("later-frame", "later-fields", "later-codes")
class DiesOfTheUnknown(Driver):
    names = "fieldOfALaterRelease", "kindOfALaterRelease", "CODE_OF_A_LATER_RELEASE"

    def take(self, frame):
        if any(name in repr(frame) for name in self.names):
            sys.exit(1)
        super().take(frame)


@fails("later-codes")
class GoesByTheCode(Driver):
    def on_refused(self, refused):
        super().on_refused({**refused, "retry": refused["code"] == "CODE_UNAVAILABLE"})


@fails("edited")
class ShowsNoEdits(Driver):
    def edit(self, envelope, edit):
        return None


@fails("edited-twice")
class TakesTheLastEdit(Driver):
    def edit(self, envelope, edit):
        self.about(edit)["edit"] = None
        return super().edit(envelope, edit)


@fails("recalled")
class EditsTheRecalled(Driver):
    def edit(self, envelope, edit):
        self.about(edit)["recalled"] = False
        return super().edit(envelope, edit)


@fails("erased")
class ShowsErasedAsEmpty(Driver):
    def on_deliver(self, deliver):
        super().on_deliver({**deliver, "envelope": {**deliver["envelope"], "erased": False}})


@fails("expired")
class KeepsForEver(Driver):
    def keep(self, seq, envelope):
        return super().keep(seq, {**envelope, "expiresAtMs": "0"})


@fails("typing-until-the-message", "typing-forgotten")
class ShowsTypingForEver(Driver):
    def typed(self, who):
        pass


@fails("typing-not-offered")
class AsksForEverything(Driver):
    def do(self, line):
        self.features = ["chat-states"]
        super().do(line)


@fails("presence-late")
class TakesLatePresences(Driver):
    def on_presences(self, told):
        self.presences = {}
        super().on_presences(told)


@fails("presence-again", "contacts-missed", "conversations-missed", "conversations-again", "privacy-missed")
class AsksOnce(Driver):
    asked = ()

    def ask(self, kind, request, answered=None):
        if kind not in self.asked:
            self.asked = (*self.asked, kind)
            super().ask(kind, request, answered)


@fails("scheduled-once")
class SchedulesAnew(Driver):
    def schedule(self, label):
        self.kept["written"] += 1
        self.scheduled[label]["clientId"] = self.new_id()
        super().schedule(label)


@fails("file-url")
class KeepsUrls(Driver):
    url = None

    def do(self, line):
        if line["do"] == "download" and self.url is not None:
            self.download(line["id"], self.url)
        else:
            super().do(line)

    def download(self, message, url):
        self.url = url
        super().download(message, url)


if __name__ == "__main__":
    WRONG[sys.argv[1]][0]().run()
