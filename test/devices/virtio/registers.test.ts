/** A block of registers: exact, wide, narrow and straddling accesses. */
import { expect, test } from 'vitest'
import { Registers, readBytes } from '../../../src/devices/virtio/registers.ts'

function block() {
  const written: [number, number][] = []
  const row = (at: number, bytes: 1 | 2 | 4, value: number) => ({
    at,
    bytes,
    read: () => value,
    write: (to: number) => written.push([at, to]),
  })
  return {
    written,
    registers: new Registers([row(0, 4, 0xdeadbeef), row(4, 2, 0x1234), row(6, 1, 0x56), row(8, 4, -1)]),
  }
}

test('reads are unsigned, of any width, across registers; gaps are 0', () => {
  const { registers } = block()
  expect(registers.read(0, 4)).toBe(0xdeadbeef)
  expect(registers.read(8, 4)).toBe(0xffffffff)
  expect([0, 1, 2, 3].map((at) => registers.read(at, 1))).toEqual([0xef, 0xbe, 0xad, 0xde])
  expect(registers.read(2, 2)).toBe(0xdead)
  expect(registers.read(2, 4)).toBe(0x1234dead)
  expect(registers.read(4, 4)).toBe(0x00561234)
  expect(registers.read(7, 1)).toBe(0)
  expect(registers.read(100, 4)).toBe(0)
})

test('writes reach the registers that they cover as a whole', () => {
  const { registers, written } = block()
  registers.write(0, 4, 0x80000001)
  registers.write(4, 4, 0xaabbccdd)
  registers.write(0, 2, 0x1111)
  registers.write(6, 1, 0x99)
  expect(written.map(([at, to]) => [at, to >>> 0])).toEqual([
    [0, 0x80000001],
    [4, 0xccdd],
    [6, 0xbb],
    [6, 0x99],
  ])
})

test('bytes as registers', () => {
  const bytes = Uint8Array.of(1, 2, 3, 0xff)
  expect(readBytes(bytes, 0, 4)).toBe(0xff030201)
  expect(readBytes(bytes, 3, 2)).toBe(0xff)
  expect(readBytes(bytes, 9, 1)).toBe(0)
})
