/** The unpacked kernel in a bzImage: the header by the Linux/x86 boot protocol, the code by running it. */
import { describe, expect, test } from 'vitest'
import { kernelPayload, plainKernel } from '../../../guests/debian/kernel.ts'

const SETUP_BYTES = 3 * 512
const LOAD_ADDRESS = 0x100000

/** A bzImage of two setup sectors whose payload is "packed". */
function bzImage(): Buffer {
  const image = Buffer.alloc(SETUP_BYTES + 64)
  image[0x1f1] = 2
  image.write('HdrS', 0x202)
  image[0x234] = 1
  image.writeUInt32LE(16, 0x248)
  image.writeUInt32LE(6, 0x24c)
  image.write('packed', SETUP_BYTES + 16)
  return image
}

/** An ELF file of two segments, entered at 0x1000004; the second one has 8 zero bytes behind its data. */
function vmlinux(): Buffer {
  const elf = Buffer.alloc(0x200)
  elf.write('\x7fELF', 0, 'latin1')
  elf.writeUInt32LE(0x1000004, 24)
  elf.writeUInt32LE(52, 28)
  elf.writeUInt16LE(32, 42)
  elf.writeUInt16LE(3, 44)
  const headers = [
    [1, 0x100, 0xc1000000, 0x1000000, 6, 6],
    [1, 0x110, 0xc1000010, 0x1000010, 5, 16],
    [4, 0x100, 0xc1000000, 0x1000000, 4, 4],
  ]
  for (const [index, fields] of headers.entries()) {
    for (const [at, field] of fields.entries()) elf.writeUInt32LE(field, 52 + index * 32 + at * 4)
  }
  elf.write('kernel', 0x100)
  elf.write('datum', 0x110)
  return elf
}

/** Runs the few instructions that the stub is made of, with `memory` at physical address 0; gives where it jumps. */
function runStub(memory: Buffer): { eip: number; esi: number } {
  const register = { eax: 0x55, ecx: 0, ebp: 0, esi: 0x1234, edi: 0 }
  let step = 4
  for (let eip = LOAD_ADDRESS; ; ) {
    const opcode = memory.readUInt8(eip)
    const immediate = memory.readUInt32LE(eip + 1)
    const pair = memory.readUInt16BE(eip)
    const loads = { 184: 'eax', 185: 'ecx', 190: 'esi', 191: 'edi' } as const
    if (opcode in loads) {
      register[loads[opcode as keyof typeof loads]] = immediate
      eip += 5
    } else if (opcode === 0xfa || opcode === 0xfc || opcode === 0xfd) {
      if (opcode !== 0xfa) step = opcode === 0xfd ? -4 : 4
      eip += 1
    } else if (pair === 0xffe0) {
      return { eip: register.eax, esi: register.esi }
    } else {
      if (pair === 0x89f5) register.ebp = register.esi
      else if (pair === 0x89ee) register.esi = register.ebp
      else if (pair === 0x31c0) register.eax = 0
      else if (pair === 0xf3a5 || pair === 0xf3ab) {
        for (; register.ecx > 0; register.ecx--) {
          const word = pair === 0xf3a5 ? memory.readUInt32LE(register.esi) : register.eax
          memory.writeUInt32LE(word, register.edi)
          register.edi += step
          if (pair === 0xf3a5) register.esi += step
        }
      } else throw new Error(`no instruction of the stub: ${pair.toString(16)}`)
      eip += 2
    }
  }
}

test('the payload is found by payload_offset and payload_length', () => {
  expect(kernelPayload(bzImage()).toString()).toBe('packed')
  expect(() => kernelPayload(Buffer.alloc(4096))).toThrow('no bzImage')
})

describe('plainKernel', () => {
  const made = plainKernel(bzImage(), vmlinux())

  test('says that it is loaded at 1 MiB, has no payload, and needs the memory up to its end', () => {
    expect(made[0x234]).toBe(0)
    expect(made.readUInt32LE(0x248)).toBe(0)
    expect(made.readUInt32LE(0x24c)).toBe(0)
    expect(made.readUInt32LE(0x1f4)).toBe(Math.ceil((made.length - SETUP_BYTES) / 16))
    expect(made.readUInt32LE(0x260)).toBe(0x1000020 - LOAD_ADDRESS)
  })

  test('puts every segment where it belongs, zeros behind it, and enters it with ESI untouched', () => {
    const memory = Buffer.alloc(0x1001000, 0xee)
    memory.set(made.subarray(SETUP_BYTES), LOAD_ADDRESS)
    expect(runStub(memory)).toEqual({ eip: 0x1000004, esi: 0x1234 })
    expect(memory.toString('latin1', 0x1000000, 0x1000006)).toBe('kernel')
    expect(memory.toString('latin1', 0x1000010, 0x1000015)).toBe('datum')
    expect([...memory.subarray(0x1000015, 0x1000020)]).toEqual(new Array(11).fill(0))
    expect(memory[0x1000020]).toBe(0xee)
  })

  test('refuses what is no ELF file', () => {
    expect(() => plainKernel(bzImage(), Buffer.alloc(512))).toThrow('no ELF file')
  })
})
