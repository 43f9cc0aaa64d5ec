"""slixmpp signs in. It binds nothing: see `test_binding.py`."""

import asyncio

import pytest
import slixmpp
from conftest import DOMAIN, STARTTLS, TLS, USERS
from slixmpp.exceptions import IqError

PATIENCE = 20


class Client(slixmpp.ClientXMPP):
    def __init__(self, place, password, mechanism=None, resource="balcony", user="juliet"):
        super().__init__(f"{user}@{DOMAIN}/{resource}", password, sasl_mech=mechanism)
        self.ca_certs = str(place.certificate)
        self.register_plugin("xep_0030")
        self.register_plugin("xep_0092")
        self.register_plugin("xep_0199")
        self.register_plugin("xep_0202")
        loop = asyncio.get_running_loop()
        self.heard = {name: loop.create_future() for name in ("session_start", "failed_all_auth", "disconnected")}
        self.errors = []
        for name, future in self.heard.items():
            self.add_event_handler(name, lambda what, future=future: future.done() or future.set_result(what))
        self.add_event_handler("stream_error", lambda error: self.errors.append(error["condition"]))

    async def first_of(self, *names):
        done, _ = await asyncio.wait(
            [self.heard[name] for name in names], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        assert done, f"none of {names} in time"
        return next(name for name in names if self.heard[name] in done)

    def reach(self, is_direct):
        self.enable_direct_tls, self.enable_starttls, self.enable_plaintext = is_direct, not is_direct, False
        self.connect("127.0.0.1", TLS if is_direct else STARTTLS)

    async def leaves(self):
        self.disconnect()
        await self.first_of("disconnected")


async def signed_in(place, is_direct=False, **options):
    client = Client(place, USERS[options.get("user", "juliet")], **options)
    client.reach(is_direct)
    assert await client.first_of("session_start", "failed_all_auth", "disconnected") == "session_start"
    return client


@pytest.mark.parametrize("mechanism", [None, "SCRAM-SHA-256", "PLAIN"])
@pytest.mark.parametrize("is_direct", [False, True], ids=["starttls", "direct"])
def test_it_signs_in(place, is_direct, mechanism):
    async def play():
        client = await signed_in(place, is_direct, mechanism=mechanism)
        assert client.boundjid.full == f"juliet@{DOMAIN}/balcony"
        await client.plugin["xep_0199"].send_ping(DOMAIN, timeout=PATIENCE)
        info = await client.plugin["xep_0030"].get_info(jid=DOMAIN, timeout=PATIENCE)
        assert "urn:xmpp:ping" in info["disco_info"]["features"]
        assert [identity[:2] for identity in info["disco_info"]["identities"]] == [("server", "im")]
        version = await client.plugin["xep_0092"].get_version(DOMAIN, timeout=PATIENCE)
        assert version["software_version"]["name"] == "Carillon"
        time = await client.plugin["xep_0202"].get_entity_time(DOMAIN, timeout=PATIENCE)
        # Its own reader of the element does not take the Z of XEP-0082.
        assert time.xml.find(".//{urn:xmpp:time}utc").text.endswith("Z")
        with pytest.raises(IqError) as refused:
            await client.get_roster(timeout=PATIENCE)
        assert refused.value.condition == "service-unavailable"
        await client.leaves()
        assert client.errors == []

    asyncio.run(play())


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
def test_a_wrong_password_is_refused(place, mechanism):
    async def play():
        client = Client(place, "wrong", mechanism=mechanism)
        client.reach(is_direct=False)
        assert await client.first_of("session_start", "failed_all_auth") == "failed_all_auth"
        client.abort()

    asyncio.run(play())


def test_a_password_with_spaces_and_another_user(place):
    async def play():
        client = await signed_in(place, user="romeo", resource="orchard")
        assert client.boundjid.full == f"romeo@{DOMAIN}/orchard"
        await client.leaves()

    asyncio.run(play())


def test_a_newer_session_of_a_resource_ends_the_older_one(place):
    async def play():
        older = await signed_in(place)
        # It would come back, and end the newer one.
        older.add_event_handler("disconnected", lambda _: older.abort())
        newer = await signed_in(place)
        await older.first_of("disconnected")
        assert older.errors == ["conflict"]
        await newer.plugin["xep_0199"].send_ping(DOMAIN, timeout=PATIENCE)
        assert place.service.ok("session", "list", "--user=juliet", "--router=127.0.0.1:7802").count("balcony") == 1
        await newer.leaves()

    asyncio.run(play())


def test_messages_are_refused_and_not_lost_in_silence(place):
    async def play():
        client = await signed_in(place)
        refused = asyncio.get_running_loop().create_future()
        client.add_event_handler("message_error", lambda message: refused.done() or refused.set_result(message))
        client.send_message(f"romeo@{DOMAIN}", "hello")
        message = await asyncio.wait_for(refused, PATIENCE)
        assert message["error"]["condition"] == "feature-not-implemented"
        await client.leaves()

    asyncio.run(play())


def test_a_new_password_ends_the_session_and_the_old_one_no_longer_counts(place):
    router = "--router=127.0.0.1:7802"

    def sets(password):
        place.service.ok("user", "add", "mercutio", "--password-stdin", "--replace", router, input=password + "\n")

    async def play():
        place.service.ok("user", "add", "mercutio", "--password-stdin", router, input="old\n")
        client = Client(place, "old", user="mercutio")
        client.reach(is_direct=True)
        assert await client.first_of("session_start", "failed_all_auth") == "session_start"
        client.add_event_handler("disconnected", lambda _: client.abort())
        await asyncio.to_thread(sets, "new")
        await client.first_of("disconnected")
        assert client.errors == ["not-authorized"]
        for password, expected in [("old", "failed_all_auth"), ("new", "session_start")]:
            client = Client(place, password, user="mercutio")
            client.reach(is_direct=True)
            assert await client.first_of("session_start", "failed_all_auth") == expected
            client.abort()

    asyncio.run(play())
