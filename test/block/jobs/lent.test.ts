/** Convert from memory that is lent: nothing is read that lies there already, and every loan is given back, whatever happens. */
import fs from 'node:fs'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { asDevice, type BlockDevice, type BlockDriver, type Loan } from '../../../src/block/device.ts'
import { BlockError } from '../../../src/block/error.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { type ConvertOptions, convert } from '../../../src/block/jobs/convert.ts'
import { createImage, openImage } from '../../../src/block/open.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { Lent } from '../../../src/block/protocols/node/lent.ts'
import { libc } from '../../../src/block/protocols/node/libc.ts'
import { outcome, same } from '../../conformance/driver.ts'
import { Faulty } from '../../conformance/faulty.ts'
import { random } from '../../random.ts'
import { lacks, runTool, temporaryFolder } from '../../tools.ts'

const KIB = 1024
const MIB = 1 << 20

/** Lends at most `most` bytes; what was given back is overwritten, as other memory would be in its place. */
class Lender extends Faulty {
  lent = 0
  loans = 0
  readonly #content: Uint8Array
  readonly #most: number

  constructor(content: Uint8Array, most = 2 * MIB) {
    super(asDevice(new Memory(content.length)))
    this.#content = content
    this.#most = most
  }

  lend(at: number, length: number): Loan {
    const bytes = this.#content.slice(at, at + Math.min(length, this.#most))
    this.lent += bytes.length
    this.loans++
    return {
      bytes,
      release: () => {
        this.loans--
        bytes.fill(0xee)
      },
    }
  }
}

class Unseen extends Faulty {
  readonly unseen = true
}

async function source(content: Uint8Array, most?: number): Promise<Lender> {
  const lender = new Lender(content, most)
  await lender.write(0, bytesVec(content))
  return lender
}

const target = (size: number) => new Unseen(asDevice(new Memory(size)))

async function holds(device: BlockDevice, wanted: Uint8Array): Promise<void> {
  const bytes = new Uint8Array(device.size)
  await device.read(0, bytesVec(bytes))
  same(bytes, wanted)
}

describe('convert borrows', () => {
  const { bytes } = random(11)
  const content = bytes(9 * MIB)
  content.fill(0, 3 * MIB, 4 * MIB + 4096)
  content.fill(0, 8 * MIB + 8192, 8 * MIB + 65_536)

  const ways: [string, ConvertOptions][] = [
    ['zeroes left out', { zeroFrom: 0 }],
    ['everything written', { minSparse: 0 }],
    ['writes out of order', { zeroFrom: 0, outOfOrder: true }],
  ]
  test.each(ways)('what it writes: %s', async (_, options) => {
    const from = await source(content)
    const to = target(content.length)
    to.later()
    await convert([{ device: asDevice(from) }], asDevice(to), options).run()
    await holds(asDevice(to), content)
    expect({ lent: from.lent, loans: from.loans, read: from.counts.read }).toEqual({
      lent: content.length,
      loans: 0,
      read: 0,
    })
  })

  test('as much as is lent', async () => {
    const from = await source(content, 64 * KIB)
    const to = target(content.length)
    await convert([{ device: asDevice(from) }], asDevice(to), { zeroFrom: 0 }).run()
    await holds(asDevice(to), content)
    expect([from.lent, from.loans, from.counts.read]).toEqual([content.length, 0, 0])
  })

  test('nothing of less than a unit of the target, but reads', async () => {
    const from = await source(content, 1000)
    const to = target(content.length)
    await convert([{ device: asDevice(from) }], asDevice(to), { zeroFrom: 0 }).run()
    await holds(asDevice(to), content)
    expect(from.loans).toBe(0)
    expect(from.counts.read).toBeGreaterThan(0)
  })

  test('nothing where the target looks at what it writes', async () => {
    const from = await source(content)
    const to = new Faulty(asDevice(new Memory(content.length)))
    await convert([{ device: asDevice(from) }], asDevice(to), { zeroFrom: 0 }).run()
    await holds(asDevice(to), content)
    expect(from.lent).toBe(0)
  })

  test('no more at a time than its speed allows', async () => {
    const from = await source(content, 8 * MIB)
    const job = convert([{ device: asDevice(from) }], asDevice(target(content.length)), { speed: 512 * KIB })
    await job.next()
    await job.next()
    expect(from.lent).toBeGreaterThan(0)
    expect(from.lent).toBeLessThanOrEqual(MIB)
    await job.cancel()
  })

  test('nothing for longer than a failure takes', async () => {
    const from = await source(content)
    const to = target(content.length)
    to.later()
    to.fail('write', 'ENOSPC')
    await expect(convert([{ device: asDevice(from) }], asDevice(to)).run()).rejects.toMatchObject({
      code: 'ENOSPC',
      verb: 'writing',
    })
    expect(from.loans).toBe(0)
  })

  test('nothing for longer than its writes take, where one fails at once while another is under way', async () => {
    const mixed = content.slice(0, 2 * MIB)
    mixed.fill(0, MIB, MIB + 8192)
    const from = await source(mixed)
    const seen: string[] = []
    const to: BlockDriver = {
      name: 'full',
      size: mixed.length,
      unseen: true,
      read() {},
      zero() {},
      write(at) {
        if (at > 0) throw new BlockError('ENOSPC', 'full at once')
        return new Promise((_, reject) => {
          setTimeout(() => {
            seen.push(`${from.loans} lent when the first write ends`)
            reject(new BlockError('ENOSPC', 'full later'))
          }, 20)
        })
      },
    }
    await expect(convert([{ device: asDevice(from) }], asDevice(to), { zeroFrom: 0 }).run()).rejects.toMatchObject({
      code: 'ENOSPC',
    })
    seen.push('the job is over')
    await new Promise((resolve) => setTimeout(resolve, 40))
    expect(seen).toEqual(['1 lent when the first write ends', 'the job is over'])
  })

  test('nothing for longer than it takes to be canceled', async () => {
    const from = await source(new Uint8Array(32 * MIB).fill(7))
    const to = target(32 * MIB)
    to.later()
    const controller = new AbortController()
    const job = convert([{ device: asDevice(from) }], asDevice(to), { signal: controller.signal })
    for await (const { done } of job) if (done > 4 * MIB) controller.abort()
    expect(job.status).toBe('concluded')
    expect(from.loans).toBe(0)
  })
})

describe.runIf(libc() !== undefined)('convert between files that the page cache has', () => {
  const folder = temporaryFolder()
  afterAll(() => folder.remove())
  const { bytes, below } = random(12)
  const SIZE = 12 * MIB

  /** Clusters in no order, zeroes, and nothing. */
  async function mixed(name: string): Promise<Uint8Array> {
    const content = new Uint8Array(SIZE)
    await createImage(name, 'qcow2', SIZE)
    const image = await openImage(name, { format: 'qcow2', gate: 'any' })
    for (let i = 0; i < 100; i++) {
      const at = below(SIZE / 4096) * 4096
      const part = i % 5 === 0 ? new Uint8Array(below(100) * KIB) : bytes(1 + below(300 * KIB))
      const fits = part.subarray(0, SIZE - at)
      await image.write(at, bytesVec(fits))
      content.set(fits, at)
    }
    await image.close()
    return content
  }

  test('gives the same disk in both directions, leaves nothing mapped, and a writable source lends nothing', async () => {
    const [first, plain, second] = ['first.qcow2', 'plain.raw', 'second.qcow2'].map((name) => folder.file(name))
    const content = await mixed(first!)
    await createImage(plain!, 'raw', SIZE)
    await createImage(second!, 'qcow2', SIZE)
    for (const [from, to, readOnly] of [
      [first!, plain!, true],
      [plain!, second!, true],
      [second!, plain!, false],
    ] as const) {
      const format = (name: string) => (name === plain ? 'raw' : 'qcow2')
      const here = await openImage(from, { format: format(from), readOnly, gate: 'any' })
      const there = await openImage(to, { format: format(to), gate: 'any' })
      const lend = vi.spyOn(Lent.prototype, 'lend')
      await convert([{ device: here }], there).run()
      // On overlayfs nothing is mapped.
      const able = readOnly && fs.statfsSync(from).type !== 0x794c7630
      expect(lend.mock.results.some(({ value }) => value !== undefined)).toBe(able)
      lend.mockRestore()
      await holds(there, content)
      await here.close()
      await there.close()
      expect(fs.readFileSync('/proc/self/maps', 'latin1')).not.toContain(from)
    }
    if (!lacks('qemu-img')) {
      await runTool('qemu-img', 'check', second!)
      await runTool('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', plain!, second!)
    }
  })

  test('nothing is lent where pages cannot be had, or no place for them, and too much at a time is not either', () => {
    const name = folder.file('refused.raw')
    fs.writeFileSync(name, bytes(MIB))
    const fd = fs.openSync(name, 'r')
    let [mapped, populated] = [true, true]
    const calls = libc()!
    const lying = {
      ...calls,
      mapFile: (...parts: Parameters<typeof calls.mapFile>) => (mapped ? calls.mapFile(...parts) : -12),
      populate: (at: number, length: number) => (populated ? calls.populate(at, length) : -14),
    }
    const lent = new Lent(lying, fd, MIB)
    const first = lent.lend(0, MIB)
    if (first === undefined) return expect(fs.statfsSync(name).type).toBe(0x794c7630) // on overlayfs nothing is mapped
    const others = [1, 2, 3].map(() => lent.lend(0, 4096))
    expect(others.every((loan) => loan !== undefined)).toBe(true)
    expect(lent.lend(0, 4096)).toBe(undefined)
    others[0]!.release()
    populated = false
    expect(lent.lend(0, 4096)).toBe(undefined)
    populated = true
    mapped = false
    expect(lent.lend(0, 4096)).toBe(undefined)
    mapped = true
    const again = lent.lend(4096, 4096)
    same(again!.bytes, fs.readFileSync(name).subarray(4096, 8192))
    for (const loan of [first, again, ...others]) loan?.release()
    lent.close()
    expect(lent.lend(0, 4096)).toBe(undefined)
    fs.closeSync(fd)
  })

  test('what is lent stays there until it is given back; where the file has become shorter the kernel refuses to copy it', async () => {
    const name = folder.file('lent.raw')
    const content = bytes(MIB)
    fs.writeFileSync(name, content)
    const image = await openImage(name, { format: 'raw', readOnly: true, gate: 'any' })
    const loan = image.lend(0, MIB)
    if (loan === undefined) return expect(fs.statfsSync(name).type).toBe(0x794c7630) // on overlayfs nothing is mapped
    await image.close()
    same(loan.bytes, content)
    fs.truncateSync(name, 0)
    const out = fs.openSync(folder.file('out'), 'w')
    expect(await outcome(async () => void fs.writeSync(out, loan.bytes, 0, 4096, 0))).toBe('EFAULT')
    fs.closeSync(out)
    loan.release()
    loan.release()
    expect(fs.readFileSync('/proc/self/maps', 'latin1')).not.toContain(name)
  })
})
