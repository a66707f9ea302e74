"""The media of a lab's phone: sends talk (silence) and keys as RTP, counts what it hears."""

from __future__ import annotations

import random
import socket
import struct
import threading
from typing import Final

from lab.ports import LOOPBACK
from lab.sip_message import EVENTS, PCMU

PACKET_S: Final = 0.02
SAMPLES: Final = 160
SILENCE: Final = b"\xff" * SAMPLES
KEY_PACKETS, KEY_ENDS = 5, 3  # of one key, and how often its end is said (RFC 4733)
RTP_HEADER: Final = 12
KEYS: Final = "0123456789*#"


class Media:
    """One RTP stream on a port of its own. `peer` must be set before something is sent."""

    def __init__(self, host: str = LOOPBACK) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._socket.settimeout(PACKET_S)
        self.port = int(self._socket.getsockname()[1])
        self.peer: tuple[str, int] | None = None
        self.heard = 0  # packets that came
        self.keys_heard = ""
        self._last_key: int | None = None  # its timestamp: a key is said in many packets
        self._sequence, self._stamp = random.randrange(30_000), 0
        self._source = random.randrange(1 << 32)
        self._keys: list[str] = []
        self._silent = threading.Event()
        self._thread: threading.Thread | None = None

    def talk(self) -> None:
        """Send silence, a packet every 20 ms, and listen, until `fall_silent`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def press(self, keys: str) -> None:
        """Send these keys, once each."""
        self._keys.extend(keys)
        self.talk()

    @property
    def has_pressed(self) -> bool:
        """Whether all keys are sent."""
        return not self._keys

    def fall_silent(self) -> None:
        """Send nothing more."""
        self._silent.set()
        if self._thread is not None:
            self._thread.join(1)

    def close(self) -> None:
        """End the thread and give the port back."""
        self.fall_silent()
        self._socket.close()

    def _run(self) -> None:
        while not self._silent.wait(PACKET_S):
            if self._keys:
                self._key(KEYS.index(self._keys[0]))
                self._keys.pop(0)
            else:
                self._packet(PCMU, SILENCE, self._stamp)
            self._stamp += SAMPLES
            self._listen()

    def _listen(self) -> None:
        self._socket.setblocking(False)
        try:
            while packet := self._socket.recv(2_048):
                self.heard += 1
                self._hear_key(packet)
        except OSError:
            return

    def _hear_key(self, packet: bytes) -> None:
        if len(packet) < RTP_HEADER + 4 or packet[1] & 0x7F != EVENTS:
            return
        (stamp,) = struct.unpack("!I", packet[4:8])
        if stamp != self._last_key and packet[RTP_HEADER] < len(KEYS):
            self._last_key = stamp
            self.keys_heard += KEYS[packet[RTP_HEADER]]

    def _key(self, event: int) -> None:
        for number in range(KEY_PACKETS + KEY_ENDS):
            end = 0x80 if number >= KEY_PACKETS else 0
            duration = SAMPLES * min(number + 1, KEY_PACKETS)
            self._packet(EVENTS, struct.pack("!BBH", event, end | 10, duration), self._stamp, marker=number == 0)
            self._silent.wait(PACKET_S)
        self._stamp += SAMPLES * (KEY_PACKETS + 2)

    def _packet(self, payload_type: int, payload: bytes, stamp: int, *, marker: bool = False) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF
        kind = payload_type | (0x80 if marker else 0)
        header = struct.pack("!BBHII", 0x80, kind, self._sequence, stamp & 0xFFFFFFFF, self._source)
        if self.peer is not None:
            try:
                self._socket.sendto(header + payload, self.peer)
            except OSError:
                return
