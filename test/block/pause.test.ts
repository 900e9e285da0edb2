import { expect, test } from 'vitest'
import { BlockDevice, type BlockDriver } from '../../src/block/device.ts'
import { Disk } from '../../src/block/disk.ts'
import { bytesVec, type IoVec } from '../../src/block/iovec.ts'
import { Memory } from '../../src/block/protocols/memory.ts'

/** Answers when it is told to. */
class Slow implements BlockDriver {
  readonly name = 'slow'
  readonly size = 4096
  readonly written: number[] = []
  #answers: (() => void)[] = []

  read(_at: number, into: IoVec): void {
    into.fill(0xaa)
  }

  write(at: number): Promise<void> {
    return new Promise<void>((resolve) => this.#answers.push(resolve)).then(() => void this.written.push(at))
  }

  answer(): void {
    for (const answer of this.#answers.splice(0)) answer()
  }
}

const turns = () => new Promise((resolve) => setTimeout(resolve, 1))
const byte = (value: number) => bytesVec(new Uint8Array(512).fill(value))

test('a pause waits for what is with the host; what comes meanwhile goes to the new driver, in its order', async () => {
  const slow = new Slow()
  const memory = new Memory(4096)
  const root = new BlockDevice(slow)
  const disk = new Disk(root)
  const before = disk.write(0, byte(1))
  let calm = false
  const paused = disk.pause(() => {
    calm = true
    expect(slow.written).toEqual([0])
    expect(root.replace(memory)).toBe(slow)
  })
  await turns()
  const after = [disk.write(512, byte(2)), disk.write(512, byte(3)), disk.flush()]
  const into = new Uint8Array(512)
  const read = disk.read(512, bytesVec(into))
  await turns()
  expect(calm).toBe(false)
  slow.answer()
  await Promise.all([before, paused, ...after, read])
  expect(slow.written).toEqual([0])
  expect(into[0]).toBe(3)
  expect(disk.read(512, bytesVec(into))).toBe(undefined)
})

test('what is under a held disk for the moment does not show', async () => {
  const disk = new Disk(new BlockDevice(new Memory(4096)))
  let written: Promise<void> | undefined
  await disk.pause(async () => {
    const device = disk.root.handOver()
    expect([disk.size, disk.readOnly, disk.canDiscard]).toEqual([4096, false, true])
    written = Promise.resolve(disk.write(3584, byte(1)))
    disk.root.replace(device.driver)
  })
  await written
})

test('pauses come one after the other, and one that fails lets requests go on', async () => {
  const disk = new Disk(new BlockDevice(new Memory(4096)))
  const order: string[] = []
  const first = disk.pause(async () => {
    await turns()
    order.push('first')
    throw new Error('no')
  })
  const second = disk.pause(() => void order.push('second'))
  const write = disk.write(0, byte(1))
  await expect(first).rejects.toThrow('no')
  await Promise.all([second, write])
  expect(order).toEqual(['first', 'second'])
})

test('a device that has handed its driver over is as good as closed', async () => {
  const memory = new Memory(4096)
  const device = new BlockDevice(memory)
  const next = device.handOver()
  expect([next.size, device.size]).toEqual([4096, 0])
  expect(() => device.read(0, byte(0))).toThrow()
  await device.close()
  await next.write(0, byte(1))
})

test('a job has a disk to itself; resizing waits, closing cancels it', async () => {
  const disk = new Disk(new BlockDevice(new Memory(4096)))
  let canceled = 0
  const user = { type: 'mirror', cancel: async () => void canceled++ }
  const release = disk.reserve(user)
  expect(() => disk.reserve({ ...user, type: 'backup' })).toThrow(
    'Cannot begin a backup of memory: a mirror of it is under way',
  )
  expect(() => disk.resize(8192)).toThrow('Cannot resize memory: a mirror of it is under way')
  release()
  await disk.resize(8192)
  disk.reserve(user)
  await disk.close()
  expect(canceled).toBe(1)
  expect(() => disk.reserve(user)).toThrow('it is closed')
})
