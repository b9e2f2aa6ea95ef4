"""A worker that does what the letters in its requests say; see `act`.

It imports next to nothing, for hundreds of it are started, and it reads no JSON: what a kernel
wrote comes back as bytes. Its argument says how it begins: "crash", or how it answers a handshake.
"""

import _signal  # without the enums of `signal`, which take time
import os
import sys

held = []


def main() -> None:
    mode = sys.argv[1]
    if mode == "crash":
        os.write(2, b"no luck\n")
        os._exit(7)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGUSR1])
    rest = b""
    while data := os.read(0, 65536):
        *lines, rest = (rest + data).split(b"\n")
        out = b""
        for line in lines:
            out = take(line, out, mode)
        put(out)


def take(line: bytes, out: bytes, mode: str) -> bytes:
    if b'"method":"fence"' in line:
        return out + line.replace(b'"fence"', b'"fenced"') + b"\n"
    id_ = between(line, b'"id":', b',"method"')
    if b'"anyio-bus/handshake"' in line:
        said = b'"error":{"code":-1,"message":"no"}' if mode == "refuse" else b'"result":{}'
        return out + b'{"id":%b,%b}\n' % (id_, said)
    ops = between(line, b'"do":"', b'"')
    if not ops:  # a cancel frame, a notification: it comes back as it was
        return out + b'{"method":"got","params":"%b"}\n' % line.hex().encode()
    for op in ops.decode().split():
        out = act(op[0], op[1:], id_, line, out)
    return out


def act(op: str, rest: str, id_: bytes, line: bytes, out: bytes) -> bytes:
    if op in "aeypbB":
        return out + answer(op, rest, id_, line)
    match op:
        case "h":  # keep it for later
            held.append(id_)
        case "r" | "R":  # answer what was kept, in order or reversed
            keys = held[:: -1 if op == "R" else 1]
            held.clear()
            return out + b"".join(b'{"id":%b,"result":1}\n' % key for key in keys)
        case "n":  # a notification
            return out + b'{"method":"note","params":"%b"}\n' % rest.encode()
        case "c":  # so many chunks, each in a write of its own
            for number in range(int(rest)):
                put(out)
                meta = b'{"_meta":{"requestId":%b},"chunk":%d}' % (id_, number)
                out = b'{"method":"chunk","params":%b}\n' % meta
        case "w" | "v":  # a line as it is given, in hex; or without its end
            return out + bytes.fromhex(rest).replace(b"$ID", id_) + (b"\n" if op == "w" else b"")
        case "u":  # a line in two writes
            data = bytes.fromhex(rest).replace(b"$ID", id_) + b"\n"
            put(out + data[: len(data) // 2])
            return data[len(data) // 2 :]
        case _:
            put(out)
            end_or_wait(op, rest)
            return b""
    return out


def answer(op: str, rest: str, id_: bytes, line: bytes) -> bytes:
    match op:
        case "e":  # with an error
            return b'{"id":%b,"error":{"code":5,"message":"bad","data":[1]}}\n' % id_
        case "y":  # with the name of a session
            return b'{"id":%b,"result":{"sessionId":"%b"}}\n' % (id_, rest.encode())
        case "p":  # with a variable and the working directory
            place = f"{os.environ.get('PLACE')} {os.getcwd()}".encode()
            return b'{"id":%b,"result":"%b"}\n' % (id_, place)
        case "b":  # with so many bytes
            return b'{"id":%b,"result":"%b"}\n' % (id_, b"x" * int(rest))
        case "B":  # the same, its id at the end
            return b'{"result":"%b","id":%b}\n' % (b"x" * int(rest), id_)
    return b'{"jsonrpc":"2.0","id":%b,"result":"%b"}\n' % (id_, line.hex().encode())


def end_or_wait(op: str, rest: str) -> None:
    match op:
        case "f":  # what comes next is another write
            return
        case "s":  # words on stderr
            os.write(2, rest.encode() + b"\n")
        case "z":  # read nothing until the signal
            put(b'{"method":"stalling"}\n')
            _signal.sigwait([_signal.SIGUSR1])
            put(b'{"method":"going on"}\n')
        case "x":
            os._exit(int(rest))
        case "k":
            os.kill(os.getpid(), int(rest))
        case "o":  # close stdout, and stay
            os.close(1)


def put(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def between(line: bytes, start: bytes, end: bytes) -> bytes:
    _, found, rest = line.partition(start)
    return rest.partition(end)[0] if found else b""


if __name__ == "__main__":
    main()
