import { describe, expect, test } from 'vitest'
import { bytesVec, copyVec, zeroVec } from '../../src/block/iovec.ts'
import { same } from '../conformance/driver.ts'

const abc = () => [Uint8Array.of(1, 2, 3), new Uint8Array(0), Uint8Array.of(4), Uint8Array.of(5, 6)] as const

describe('a list of memory', () => {
  test('has the length of its pieces, and no empty views', () => {
    const list = bytesVec(...abc())
    expect(list.byteLength).toBe(6)
    expect(list.views().map((view) => view.length)).toEqual([3, 1, 2])
  })

  test('gathers and scatters across pieces', () => {
    const pieces = abc()
    const list = bytesVec(...pieces)
    expect([...list.gather()]).toEqual([1, 2, 3, 4, 5, 6])
    list.scatter(Uint8Array.of(9, 8, 7), 2)
    expect([...list.gather()]).toEqual([1, 2, 9, 8, 7, 6])
    expect(pieces[2][0]).toBe(8)
  })

  test('gathers into a longer array and answers the part it filled', () => {
    const target = new Uint8Array(10).fill(0xee)
    const filled = bytesVec(...abc()).gather(target)
    expect([...filled]).toEqual([1, 2, 3, 4, 5, 6])
    expect(filled.buffer).toBe(target.buffer)
    expect(target[6]).toBe(0xee)
  })

  test('slices to every range', () => {
    const list = bytesVec(...abc())
    for (let start = 0; start <= 6; start++) {
      for (let end = start; end <= 6; end++) {
        expect([...list.slice(start, end).gather()]).toEqual([1, 2, 3, 4, 5, 6].slice(start, end))
      }
    }
  })

  test.each([
    [-1, 3],
    [0, 7],
    [4, 3],
    [Number.NaN, 3],
  ])('refuses a slice from %d to %d', (start, end) => {
    expect(() => bytesVec(...abc()).slice(start, end)).toThrow(RangeError)
  })

  test('refuses a scatter past its end', () => {
    const list = bytesVec(...abc())
    expect(() => list.scatter(new Uint8Array(7))).toThrow(RangeError)
    expect(() => list.scatter(new Uint8Array(1), 6)).toThrow(RangeError)
    expect(() => list.scatter(new Uint8Array(1), -1)).toThrow(RangeError)
  })

  test('after revoke neither it nor its slices touch the memory', () => {
    const pieces = abc()
    const list = bytesVec(...pieces)
    const part = list.slice(1, 5)
    part.revoke()
    list.scatter(new Uint8Array(6).fill(0xee))
    part.fill(0xee)
    expect([...pieces[0], ...pieces[2], ...pieces[3]]).toEqual([1, 2, 3, 4, 5, 6])
    for (const use of [() => list.views(), () => part.views(), () => list.gather()]) {
      expect(use).toThrow(expect.objectContaining({ code: 'ECANCELED' }))
    }
  })

  test('zeroVec is as long as asked and all zeroes', () => {
    for (const length of [0, 1, 65536, 65537, 200_000]) same(zeroVec(length).gather(), new Uint8Array(length))
  })

  test('copyVec copies between lists cut differently', () => {
    const target = [new Uint8Array(1), new Uint8Array(5)] as const
    copyVec(bytesVec(...abc()), bytesVec(...target))
    expect([...target[0], ...target[1]]).toEqual([1, 2, 3, 4, 5, 6])
  })
})
