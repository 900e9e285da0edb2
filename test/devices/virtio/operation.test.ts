/** virtio 1.2, 5.2.6: what a block device does, on every face and ring. */
import { describe, expect, test } from 'vitest'
import type { BlockDriver } from '../../../src/block/device.ts'
import { BlockError } from '../../../src/block/error.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { kicks, onKick } from '../../../src/block/turn.ts'
import type { ScsiRequest } from '../../../src/devices/virtio/index.ts'
import { microtasks } from '../machine.ts'
import { Slow } from '../slow.ts'
import { Driver, F, FACES, IOERR, OK, pattern, T, UNSUPP } from './driver.ts'

/** struct virtio_blk_discard_write_zeroes, several of them. */
function segments(...list: readonly (readonly [sector: number, count: number, flags?: number])[]): Uint8Array {
  const bytes = new Uint8Array(16 * list.length)
  const view = new DataView(bytes.buffer)
  for (const [i, [sector, count, flags = 0]] of list.entries()) {
    view.setBigUint64(16 * i, BigInt(sector), true)
    view.setUint32(16 * i + 8, count, true)
    view.setUint32(16 * i + 12, flags, true)
  }
  return bytes
}

/** A disk that remembers what was asked of it. */
class Watched implements BlockDriver {
  readonly name = 'watched'
  readonly fua = true
  readonly memory = new Memory(1 << 20)
  readonly calls: string[] = []
  readonly size = 1 << 20
  read(at: number, into: Parameters<Memory['read']>[1]): void {
    this.memory.read(at, into)
  }
  write(at: number, from: Parameters<Memory['write']>[1], options?: { fua?: boolean }): void {
    this.calls.push(`write ${at} ${from.byteLength}${options?.fua ? ' fua' : ''}`)
    this.memory.write(at, from)
  }
  flush(): void {
    this.calls.push('flush')
  }
  zero(at: number, length: number, options?: { unmap?: boolean }): void {
    this.calls.push(`zero ${at} ${length}${options?.unmap ? ' unmap' : ''}`)
    this.memory.zero(at, length)
  }
  discard(at: number, length: number): void {
    this.calls.push(`discard ${at} ${length}`)
    this.memory.zero(at, length)
  }
}

describe.each(FACES)('5.2.6 Device operation, $name', (face) => {
  test('VIRTIO_BLK_T_OUT writes and VIRTIO_BLK_T_IN reads sectors', () => {
    const driver = new Driver(face)
    const bytes = pattern(4096)
    expect(driver.write(8, bytes)).toMatchObject({ status: OK })
    expect(driver.read(8, 4096)).toEqual({ status: OK, length: 4097, data: bytes })
    expect(driver.read(9, 512).data).toEqual(bytes.slice(512, 1024))
  })

  test('all that one notification brings goes to the host together, when the last of it was taken', () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    for (const sector of [0, 8, 16]) driver.add(driver.build(T.IN, sector, { input: 512 }))
    const before = kicks()
    let pending = -1
    onKick(() => {
      if (pending < 0) pending = slow.pending.length
    })
    driver.notify()
    expect([kicks() - before, pending]).toEqual([1, 3])
  })

  test('the last sector can be read and written, the one after it cannot', () => {
    const driver = new Driver(face)
    const last = driver.capacity - 1
    expect(driver.write(last, pattern(512)).status).toBe(OK)
    expect(driver.read(last, 512).status).toBe(OK)
    expect(driver.write(last, pattern(1024)).status).toBe(IOERR)
    expect(driver.read(last + 1, 512).status).toBe(IOERR)
  })

  test('5.2.6.1: data that are no multiple of 512 bytes (CVE-2011-1750)', () => {
    const driver = new Driver(face)
    for (const length of [1, 511, 513, 4095]) {
      expect(driver.write(0, pattern(length)).status).toBe(IOERR)
      expect(driver.read(0, length).status).toBe(IOERR)
    }
    expect(driver.read(0, 512).data).toEqual(new Uint8Array(512))
  })

  test('a disk of 4 KiB blocks takes whole blocks only', () => {
    const driver = new Driver({ ...face, disk: { logicalBlockSize: 4096 } })
    expect(driver.write(8, pattern(4096)).status).toBe(OK)
    expect(driver.write(9, pattern(4096)).status).toBe(IOERR)
    expect(driver.read(8, 512).status).toBe(IOERR)
  })

  test('a sector number so high that its byte offset has no exact number', () => {
    const driver = new Driver(face)
    const request = driver.build(T.IN, 0, { input: 512 })
    driver.bus.memory.data.setBigUint64(request.elements[0]!.at + 8, 0xffff_ffff_ffff_ffffn, true)
    expect(driver.send(request).status).toBe(IOERR)
  })

  test('data that go the wrong way', () => {
    const driver = new Driver(face)
    expect(driver.send(driver.build(T.OUT, 0, { output: pattern(512), input: 512 })).status).toBe(IOERR)
    expect(driver.send(driver.build(T.IN, 0, { output: pattern(512), input: 512 })).status).toBe(IOERR)
  })

  test('VIRTIO_BLK_T_FLUSH', () => {
    const on = new Watched()
    const driver = new Driver({ ...face, on })
    expect(driver.send(driver.build(T.FLUSH, 0))).toMatchObject({ status: OK, length: 1 })
    expect(on.calls).toEqual(['flush'])
    expect(driver.disk.stats.flushes).toBe(1)
  })

  test('a flush completes when the host has flushed', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    const request = driver.add(driver.build(T.FLUSH, 0))
    driver.notify()
    expect(request.status).toBe(0xee)
    await slow.settle()
    expect(request.status).toBe(OK)
    expect(driver.used()).toHaveLength(1)
  })

  test('VIRTIO_BLK_T_GET_ID: up to 20 bytes, padded with NUL', () => {
    const driver = new Driver({ ...face, disk: { serial: 'root' } })
    const answer = driver.send(driver.build(T.GET_ID, 0, { input: 20 }))
    expect(answer.length).toBe(21)
    expect(new TextDecoder().decode(answer.data)).toBe('root'.padEnd(20, '\0'))
    const full = new Driver({ ...face, disk: { serial: '12345678901234567890' } })
    const id = full.send(full.build(T.GET_ID, 0, { input: 20 }))
    expect(new TextDecoder().decode(id.data)).toBe('12345678901234567890')
  })

  test('VIRTIO_BLK_T_GET_ID into less and more than 20 bytes', () => {
    const driver = new Driver({ ...face, disk: { serial: '12345678901234567890' } })
    expect(driver.send(driver.build(T.GET_ID, 0, { input: 4 }))).toMatchObject({ status: OK, length: 5 })
    const more = driver.send(driver.build(T.GET_ID, 0, { input: 32 }))
    expect(more).toMatchObject({ status: OK, length: 20 })
    expect(more.data.slice(20)).toEqual(new Uint8Array(12))
  })

  test('VIRTIO_BLK_T_GET_LIFETIME', () => {
    const lifetime = { preEolInfo: 1, estimateA: 3, estimateB: 11 }
    const driver = new Driver({ ...face, device: { lifetime } })
    const answer = driver.send(driver.build(T.GET_LIFETIME, 0, { input: 6 }))
    expect(answer).toEqual({ status: OK, length: 7, data: Uint8Array.of(1, 0, 3, 0, 11, 0) })
    expect(driver.send(driver.build(T.GET_LIFETIME, 0, { input: 5 })).status).toBe(IOERR)
    const without = new Driver(face)
    expect(without.send(without.build(T.GET_LIFETIME, 0, { input: 6 })).status).toBe(UNSUPP)
  })

  test('VIRTIO_BLK_T_DISCARD of several segments', () => {
    const on = new Watched()
    const driver = new Driver({ ...face, on })
    const output = segments([8, 8], [100, 1], [0, 0])
    expect(driver.send(driver.build(T.DISCARD, 0, { output })).status).toBe(OK)
    expect(on.calls).toEqual(['discard 4096 4096', 'discard 51200 512'])
  })

  test('VIRTIO_BLK_T_WRITE_ZEROES of several segments, with and without unmap', () => {
    const on = new Watched()
    const driver = new Driver({ ...face, on })
    driver.write(0, pattern(8192))
    const output = segments([1, 2], [5, 1, 1])
    expect(driver.send(driver.build(T.WRITE_ZEROES, 0, { output })).status).toBe(OK)
    expect(on.calls.slice(1)).toEqual(['zero 512 1024', 'zero 2560 512 unmap'])
    expect(driver.read(1, 1024).data).toEqual(new Uint8Array(1024))
    expect(driver.read(5, 512).data).toEqual(new Uint8Array(512))
    expect(driver.read(3, 1024).data).toEqual(pattern(8192).slice(1536, 2560))
  })

  test('VIRTIO_BLK_T_SECURE_ERASE overwrites and makes that durable', () => {
    const on = new Watched()
    const driver = new Driver({ ...face, on, device: { secureErase: true } })
    driver.write(0, pattern(1024))
    expect(driver.send(driver.build(T.SECURE_ERASE, 0, { output: segments([1, 1]) })).status).toBe(OK)
    expect(on.calls.slice(1)).toEqual(['write 512 512', 'flush'])
    expect(driver.read(0, 1024).data).toEqual(Uint8Array.from([...pattern(512), ...new Uint8Array(512)]))
  })

  test('5.2.6.2: unknown flags are UNSUPP, and so is unmap in a discard or an erase', () => {
    const driver = new Driver({ ...face, device: { secureErase: true } })
    const status = (type: number, flags: number) =>
      driver.send(driver.build(type, 0, { output: segments([0, 1, flags]) })).status
    expect(status(T.DISCARD, 1)).toBe(UNSUPP)
    expect(status(T.SECURE_ERASE, 1)).toBe(UNSUPP)
    for (const type of [T.DISCARD, T.SECURE_ERASE, T.WRITE_ZEROES]) {
      expect(status(type, 2)).toBe(UNSUPP)
      expect(status(type, 0x80000000)).toBe(UNSUPP)
    }
  })

  test('5.2.6.1: ranges beyond the capacity, too long, too many, or not whole segments fail, and nothing is done', () => {
    const on = new Watched()
    const driver = new Driver({ ...face, on, device: { maxDiscardSectors: 64, maxWriteZeroesSectors: 64 } })
    const capacity = driver.capacity
    for (const type of [T.DISCARD, T.WRITE_ZEROES]) {
      for (const output of [
        segments([0, 1], [capacity, 1]),
        segments([0, 1], [capacity - 1, 2]),
        segments([0, 65]),
        segments([0, 1], [Number.MAX_SAFE_INTEGER, 1]),
        segments(...Array.from({ length: 17 }, () => [0, 1] as const)),
        segments([0, 1]).slice(0, 15),
        new Uint8Array(0),
      ]) {
        expect(driver.send(driver.build(type, 0, { output })).status).toBe(IOERR)
      }
    }
    expect(on.calls).toEqual([])
  })

  test('requests whose feature was not negotiated are UNSUPP', () => {
    const driver = new Driver({ ...face, refuse: [F.DISCARD, F.WRITE_ZEROES] })
    for (const type of [T.DISCARD, T.WRITE_ZEROES, T.SECURE_ERASE]) {
      expect(driver.send(driver.build(type, 0, { output: segments([0, 1]) })).status).toBe(UNSUPP)
    }
  })

  test('request types that there are not are UNSUPP', () => {
    const driver = new Driver(face)
    for (const type of [T.SCSI_CMD, 6, 7, 9, 12, 15, 16, 26, 100, 0x80000000, 0xffffffff]) {
      expect(driver.send(driver.build(type, 0, { input: 512 })).status).toBe(UNSUPP)
    }
  })

  test('5.2.6.2: a read-only disk fails everything that writes', () => {
    const driver = new Driver({
      ...face,
      on: Memory.from(pattern(4096), { readOnly: true }),
      device: { discard: true, writeZeroes: true, secureErase: true },
    })
    expect(driver.features.has(F.RO)).toBe(true)
    expect(driver.write(0, pattern(512, 9)).status).toBe(IOERR)
    for (const type of [T.DISCARD, T.WRITE_ZEROES, T.SECURE_ERASE]) {
      expect(driver.send(driver.build(type, 0, { output: segments([0, 1]) })).status).not.toBe(OK)
    }
    expect(driver.read(0, 512).data).toEqual(pattern(4096).slice(0, 512))
    expect(driver.send(driver.build(T.FLUSH, 0)).status).toBe(OK)
  })

  test('an error of the host, at once or later, is IOERR', async () => {
    const driver = new Driver({
      ...face,
      on: {
        name: 'broken',
        size: 1 << 20,
        read: (at) => {
          if (at === 0) throw new BlockError('EIO', 'Cannot read')
          return Promise.reject(new BlockError('EIO', 'Cannot read'))
        },
        write: () => Promise.reject(new BlockError('EIO', 'Cannot write')),
      },
    })
    expect(driver.read(0, 512)).toMatchObject({ status: IOERR, length: 0 })
    const read = driver.add(driver.build(T.IN, 1, { input: 512 }))
    const write = driver.add(driver.build(T.OUT, 1, { output: pattern(512) }))
    driver.notify()
    await microtasks()
    expect(driver.used()).toEqual([
      { id: read.id, length: 0 },
      { id: write.id, length: 1 },
    ])
    expect([read.status, write.status]).toEqual([IOERR, IOERR])
  })

  test('a driver that fails with something that is no error', () => {
    const driver = new Driver({
      ...face,
      on: {
        name: 'odd',
        size: 512,
        read: () => {
          throw undefined
        },
      },
    })
    expect(driver.read(0, 512).status).toBe(IOERR)
  })

  test('of several segments a failing one ends the request, and nothing is left under way', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    const request = driver.add(driver.build(T.DISCARD, 0, { output: segments([0, 1], [8, 1], [16, 1]) }))
    driver.notify()
    expect(slow.pending).toHaveLength(1)
    slow.next()
    await microtasks()
    slow.pending[0]!.fail(new BlockError('EIO', 'Cannot discard'))
    await microtasks()
    expect(request.status).toBe(IOERR)
    expect(slow.pending).toHaveLength(0)
  })
})

describe('5.2.6.2: when a write is stable', () => {
  const writes = (options: ConstructorParameters<typeof Driver>[0]) => {
    const on = new Watched()
    const driver = new Driver({ ...options, on })
    driver.write(0, pattern(512))
    return { driver, on }
  }

  test.each(FACES)('a driver that negotiated neither FLUSH nor CONFIG_WCE: at its completion, $name', (face) => {
    expect(writes({ ...face, refuse: [F.FLUSH, F.CONFIG_WCE] }).on.calls.at(-1)).toBe('write 0 512 fua')
  })

  test.each(FACES)('a driver that negotiated FLUSH alone: after the next flush, $name', (face) => {
    expect(writes({ ...face, refuse: [F.CONFIG_WCE] }).on.calls).toEqual(['write 0 512'])
  })

  test.each(FACES)('with CONFIG_WCE: as the writeback field says, $name', (face) => {
    const { driver, on } = writes(face)
    expect(driver.config(32, 1)).toBe(1)
    driver.setConfig8(32, 0)
    expect(driver.config(32, 1)).toBe(0)
    driver.write(1, pattern(512))
    driver.setConfig8(32, 1)
    driver.write(2, pattern(512))
    expect(on.calls).toEqual(['write 0 512', 'flush', 'write 512 512 fua', 'write 1024 512'])
  })

  test('5.2.5.2: CONFIG_WCE without FLUSH starts with writeback 0, but not for a legacy driver (5.2.5.3)', () => {
    expect(writes({ refuse: [F.FLUSH] }).driver.config(32, 1)).toBe(0)
    expect(writes({ face: 'legacy', refuse: [F.FLUSH] }).driver.config(32, 1)).toBe(1)
  })

  test('a disk with cache=writethrough starts with writeback 0', () => {
    const { driver, on } = writes({ disk: { cache: 'writethrough' } })
    expect(driver.config(32, 1)).toBe(0)
    expect(on.calls).toEqual(['write 0 512 fua'])
    expect(writes({ disk: { cache: 'writethrough' }, refuse: [F.CONFIG_WCE] }).on.calls).toEqual(['write 0 512 fua'])
  })

  test('a reset returns to what the disk was set up with', () => {
    const { driver } = writes({})
    driver.setConfig8(32, 0)
    driver.status = 0
    expect(driver.disk.writeCache).toBe(true)
    expect(driver.config(32, 1)).toBe(1)
  })

  test('other fields, and values that there are not, are not written', () => {
    const { driver } = writes({})
    for (let at = 0; at < 72; at++) if (at !== 32) driver.setConfig8(at, 0xff)
    driver.setConfig8(32, 2)
    expect(driver.capacity).toBe(2048)
    expect(driver.config(32, 1)).toBe(1)
  })

  test('a driver that turns the cache on and off without end has one flush under way', async () => {
    const slow = new Slow()
    const driver = new Driver({ on: slow })
    for (let i = 0; i < 100; i++) driver.setConfig8(32, i & 1)
    await microtasks()
    expect(slow.pending).toHaveLength(1)
    expect(driver.config(32, 1)).toBe(1)
    await slow.settle()
    expect(driver.disk.writeCache).toBe(true)
  })

  test('without configWce the field is not there to be written', () => {
    const { driver } = writes({ device: { configWce: false } })
    expect(driver.features.has(F.CONFIG_WCE)).toBe(false)
    driver.setConfig8(32, 0)
    expect(driver.disk.writeCache).toBe(true)
  })
})

describe('5.2.6.3 Legacy interface: device operation', () => {
  test('VIRTIO_BLK_T_FLUSH_OUT is a flush, on the legacy interface only', () => {
    const legacy = new Driver({ face: 'legacy' })
    expect(legacy.send(legacy.build(T.FLUSH_OUT, 0)).status).toBe(OK)
    const modern = new Driver()
    expect(modern.send(modern.build(T.FLUSH_OUT, 0)).status).toBe(UNSUPP)
  })

  test('SCSI packet commands: command, data, sense and the trailing fields', () => {
    const seen: ScsiRequest[] = []
    const scsi = (request: ScsiRequest) => {
      seen.push(request)
      request.dataIn.scatter(pattern(36))
      return { status: 2, sense: Uint8Array.of(0x70, 0, 5), residual: 28 }
    }
    const driver = new Driver({ face: 'legacy', device: { scsi } })
    expect(driver.features.has(F.SCSI)).toBe(true)
    const request = driver.build(T.SCSI_CMD, 0, { output: Uint8Array.of(0x12, 0, 0, 0, 64, 0), input: 64 })
    const sense = driver.alloc(96)
    const tail = driver.alloc(16)
    request.elements.splice(3, 0, { at: sense, length: 96, write: true }, { at: tail, length: 16, write: true })
    expect(driver.send(request)).toMatchObject({ status: OK, length: 0 })
    expect(seen[0]!.cdb).toEqual(Uint8Array.of(0x12, 0, 0, 0, 64, 0))
    expect(seen[0]!.dataIn.byteLength).toBe(64)
    expect(request.data.slice(0, 36)).toEqual(pattern(36))
    expect(driver.bytes(sense, 4)).toEqual(Uint8Array.of(0x70, 0, 5, 0))
    const fields = new DataView(driver.bytes(tail, 16).buffer)
    expect([0, 4, 8, 12].map((at) => fields.getUint32(at, true))).toEqual([2, 64, 3, 28])
  })

  test('SCSI packet commands that send data', async () => {
    let sent = new Uint8Array()
    const scsi = async (request: ScsiRequest) => {
      sent = request.dataOut.gather() as Uint8Array<ArrayBuffer>
      return { status: 0, sense: new Uint8Array(0), residual: 0 }
    }
    const driver = new Driver({ face: 'legacy', device: { scsi } })
    const request = driver.build(T.SCSI_CMD, 0, { output: Uint8Array.of(0x15, 0x10, 0, 0, 24, 0) })
    const sense = driver.alloc(96)
    const tail = driver.alloc(16)
    const data = driver.store(pattern(24))
    request.elements.splice(2, 0, { at: data, length: 24 })
    request.elements.splice(3, 0, { at: sense, length: 96, write: true }, { at: tail, length: 16, write: true })
    driver.add(request)
    driver.notify()
    await microtasks()
    expect(driver.used()).toEqual([{ id: request.id, length: 113 }])
    expect(sent).toEqual(pattern(24))
  })

  test('a SCSI command that ends after a reset writes nothing', async () => {
    let end = () => {}
    const scsi = async (request: ScsiRequest) => {
      await new Promise<void>((resolve) => (end = resolve))
      request.dataIn.scatter(pattern(16))
      return { status: 2, sense: Uint8Array.of(0x70), residual: 0 }
    }
    const driver = new Driver({ face: 'legacy', device: { scsi } })
    const request = driver.build(T.SCSI_CMD, 0, { output: new Uint8Array(6), input: 16 + 112 })
    driver.add(request)
    driver.notify()
    driver.status = 0
    const before = driver.bus.memory.ram.slice()
    end()
    await microtasks()
    expect(Buffer.compare(driver.bus.memory.ram, before)).toBe(0)
    driver.initialize()
    expect(driver.read(0, 512).status).toBe(OK)
  })

  test('a SCSI command without its sense and trailing fields fails', () => {
    const scsi = () => ({ status: 0, sense: new Uint8Array(0), residual: 0 })
    const driver = new Driver({ face: 'legacy', device: { scsi } })
    expect(driver.send(driver.build(T.SCSI_CMD, 0, { output: new Uint8Array(6), input: 111 })).status).toBe(IOERR)
    expect(driver.send(driver.build(T.SCSI_CMD, 0, { output: new Uint8Array(33), input: 112 })).status).toBe(IOERR)
    expect(driver.send(driver.build(T.SCSI_CMD, 0, { input: 112 })).status).toBe(IOERR)
  })

  test('without a handler, and on the modern interface, SCSI commands are UNSUPP', () => {
    const scsi = () => ({ status: 0, sense: new Uint8Array(0), residual: 0 })
    for (const driver of [new Driver({ face: 'legacy' }), new Driver({ device: { scsi } })]) {
      expect(driver.features.has(F.SCSI)).toBe(false)
      expect(driver.send(driver.build(T.SCSI_CMD, 0, { output: new Uint8Array(6), input: 112 })).status).toBe(UNSUPP)
    }
  })
})

test('statistics count what the driver asked for', () => {
  const driver = new Driver()
  driver.write(0, pattern(1024))
  driver.read(0, 512)
  driver.send(driver.build(T.FLUSH, 0))
  expect(driver.disk.stats).toMatchObject({ reads: 1, bytesRead: 512, writes: 1, bytesWritten: 1024, flushes: 1 })
})

test('two disks of one machine keep to themselves', () => {
  const one = new Driver({ on: Memory.from(pattern(1024)) })
  const other = new Driver()
  other.disk.write(0, bytesVec(pattern(512, 5)))
  expect(one.read(0, 512).data).toEqual(pattern(1024).slice(0, 512))
  expect(other.read(0, 512).data).toEqual(pattern(512, 5))
})
