"""What software and people read about a core: JSON, a C header, a page of its registers; all from arch/."""

from __future__ import annotations

import json
from typing import Any

from insitu.arch.declaration import Role
from insitu.arch.isa import FIELDS, WORDS, Opcode
from insitu.arch.params import ARCH_VERSION, CoreParams
from insitu.arch.registers import REGISTERS, WINDOW, WORD_MASK, Error, Register


def core_json(params: CoreParams) -> str:
    """Parameters, hash, widths, memories, streams, registers and instruction fields."""
    data: dict[str, Any] = {
        "version": ARCH_VERSION,
        "hash": f"{params.hash:016x}",
        "parameters": params.to_json(),
        "formats": {role.value: {"bits": params.width(role)} for role in Role},
        "memories": {
            m.name: {"banks": params.n, "words": params.depth(m), "bits": params.word_bits(m)} for m in params.memories
        },
        "stream": {"bits": params.stream_bits, "lanes": params.n, "lane_bits": params.lane_bits},
        "window": WINDOW,
        "registers": {name: _register(r) for name, r in REGISTERS.items()},
        "errors": {e.name: e.value for e in Error},
        "instruction": {
            "words": WORDS,
            "opcodes": {o.name: o.value for o in Opcode},
            "fields": {
                name: {"word": f.word, "lsb": f.lsb, "width": f.width, "signed": f.signed, "doc": f.doc}
                for name, f in FIELDS.items()
            },
        },
    }
    return json.dumps(data, indent=2) + "\n"


def _register(register: Register) -> dict[str, Any]:
    return {
        "offset": register.offset,
        "access": register.access.value,
        "reset": register.reset,
        "count": register.count,
        "doc": register.doc,
        "fields": {
            name: {"lsb": f.lsb, "width": f.width, "doc": f.doc}
            for name, f in sorted(register.fields.items(), key=lambda item: item[1].lsb)
        },
    }


def c_header(params: CoreParams) -> str:
    """Offsets, masks and shifts of the registers, and what identifies the core, as macros."""
    lines = [
        "/* Registers of an insitu core; generated, do not edit. */",
        "#ifndef INSITU_H",
        "#define INSITU_H",
        "",
        f"#define INSITU_CORE_VERSION {ARCH_VERSION}",
        f"#define INSITU_CORE_HASH 0x{params.hash:016x}ull",
        f"#define INSITU_N {params.n}",
        f"#define INSITU_LANE_BITS {params.lane_bits}",
        f"#define INSITU_STREAM_BITS {params.stream_bits}",
        f"#define INSITU_WINDOW 0x{WINDOW:x}",
    ]
    for name, register in REGISTERS.items():
        lines += [
            "",
            f"/* {register.doc} ({register.access.value}) */",
            f"#define INSITU_{name} 0x{register.offset:03x}",
        ]
        if register.reset:
            lines.append(f"#define INSITU_{name}_RESET 0x{register.reset:08x}u")
        if register.count > 1:
            lines.append(f"#define INSITU_{name}_COUNT {register.count}")
        for field, f in sorted(register.fields.items(), key=lambda item: item[1].lsb):
            macro = f"INSITU_{name}_{field.upper()}"
            lines.append(f"#define {macro}_SHIFT {f.lsb} /* {f.doc} */")
            lines.append(f"#define {macro}_MASK 0x{f.put(-1):08x}u")
    lines += ["", "/* STATUS.error */", *(f"#define INSITU_ERROR_{e.name} {e.value}" for e in Error)]
    return "\n".join([*lines, "", "#endif", ""])


def register_page(params: CoreParams) -> str:
    """The register map as Markdown."""
    lines = [
        "# Registers",
        "",
        f"An insitu core of {params.n} x {params.n} cells, architecture {ARCH_VERSION}, parameter hash "
        f"`{params.hash:016x}`. Registers have 32 bits; writes of part of one are refused (SLVERR), addresses without "
        "one too (DECERR).",
        "",
        "| offset | name | access | reset | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, r in REGISTERS.items():
        place = f"`{r.offset:#05x}`" if r.count == 1 else f"`{r.offset:#05x}` .. `{r.end - 4:#05x}`"
        shown = name if r.count == 1 else f"{name}[{r.count}]"
        lines.append(f"| {place} | {shown} | {r.access.value} | `{_reset(name, r, params):#x}` | {r.doc} |")
    for name, r in REGISTERS.items():
        if r.fields:
            lines += ["", f"## {name}", "", "| bits | field | meaning |", "| --- | --- | --- |"]
            for field, f in sorted(r.fields.items(), key=lambda item: item[1].lsb):
                bits = str(f.lsb) if f.width == 1 else f"{f.lsb + f.width - 1}:{f.lsb}"
                lines.append(f"| {bits} | {field} | {f.doc} |")
    lines += ["", "## Errors", "", "| STATUS.error | name |", "| --- | --- |"]
    lines += [f"| {e.value} | {e.name} |" for e in Error]
    return "\n".join([*lines, ""])


def _reset(name: str, register: Register, params: CoreParams) -> int:
    constants = {"VERSION": ARCH_VERSION, "HASH_LO": params.hash & WORD_MASK, "HASH_HI": params.hash >> 32}
    return constants.get(name, register.reset)
