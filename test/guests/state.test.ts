/** One Linux with a disk on each controller: saved in the middle of writing to all of them, stopped by a full host, told of errors. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildDebianGuest } from '../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../guests/harness.ts'
import { asDevice } from '../../src/block/device.ts'
import { Disk } from '../../src/block/disk.ts'
import { BlockError, type Errno } from '../../src/block/error.ts'
import { Filter } from '../../src/block/filter.ts'
import type { IoVec } from '../../src/block/iovec.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import type { Drive } from '../../src/v86.ts'

const MIB = 1 << 20
const SIZE = 16 * MIB
const PATTERN = 2 * MIB
const BLOCK = 16384

/** Writes late, or fails, when it is told to. */
class Moody extends Filter {
  readonly name = 'moody'
  /** Milliseconds until a write is done; 0: at once. */
  delay = 0
  failure: Errno | undefined
  writes = 0
  underWay = 0

  override write(at: number, from: IoVec): void | Promise<void> {
    this.writes++
    if (this.failure !== undefined) throw new BlockError(this.failure, `no room on the host`)
    if (this.delay === 0) return this.next.write(at, from)
    this.underWay++
    return new Promise<void>((resolve) => setTimeout(resolve, this.delay)).then(() => {
      this.underWay--
      return this.next.write(at, from)
    })
  }
}

const kinds = ['virtio', 'ide', 'scsi'] as const
const places = { virtio: '/dev/vdb', ide: '/dev/sda', scsi: '/dev/sdb' }
const memories = kinds.map(() => new Memory(SIZE))
const moods = memories.map((memory) => new Moody(asDevice(memory)))
const disks = moods.map((mood, at) => new Disk(asDevice(mood), { name: kinds[at]! }))
const stops: string[] = []
let guest: Guest

beforeAll(async () => {
  const debian = await buildDebianGuest()
  const root = await openGuestDisk(debian, { arguments: 'drivers=virtio_pci,virtio_blk' })
  guest = await bootGuest({
    guest: debian,
    drives: [
      { if: 'virtio', disk: root, bootindex: 1 },
      ...kinds.map((kind, at) => ({ if: kind, disk: disks[at]! }) as Drive),
    ],
    onStop: (disk) => stops.push(disk.name),
  })
  await guest.ready()
  for (const [module, place] of [
    ['ata_piix', places.ide],
    ['sym53c8xx', places.scsi],
  ])
    await guest.must(`modprobe -a sd_mod ${module}; for i in $(seq 300); do [ -b ${place} ] && break; sleep 0.1; done`)
  await guest.must(`head -c ${PATTERN} /dev/urandom > /tmp/pattern`)
})

afterAll(() => guest?.close())

/** Writes the pattern to all three disks at the same time. */
const WRITE_ALL = `pids=
for disk in ${Object.values(places).join(' ')}; do dd if=/tmp/pattern of=$disk bs=${BLOCK} oflag=direct 2> /dev/null & pids="$pids $!"; done
for pid in $pids; do wait $pid || exit 1; done`

describe('all three controllers', () => {
  test('are saved with requests under way, and write the same again when they are restored', async () => {
    for (const mood of moods) mood.delay = 3
    const writing = guest.run(`(${WRITE_ALL}) && echo 3 > /proc/sys/vm/drop_caches`)
    await expect.poll(() => moods.every(({ writes }) => writes > 10), { interval: 1, timeout: 60_000 }).toBe(true)
    const state = await guest.emulator.save_state()
    const saved = moods.map(({ writes }) => writes)
    expect(moods.map(({ underWay }) => underWay)).toEqual([0, 0, 0])
    expect((await writing).status).toBe(0)
    const all = moods.map(({ writes }) => writes)
    for (const [at, count] of all.entries()) expect(count).toBeGreaterThan(saved[at]!)
    for (const [at, memory] of memories.entries()) memory.zero(saved[at]! * BLOCK, PATTERN - saved[at]! * BLOCK)
    await guest.emulator.restore_state(state)
    await guest.waitFor(/\n>=\d+= 0\n/)
    for (const mood of moods) mood.delay = 0
    expect(moods.map(({ writes }, at) => writes - all[at]!)).toEqual(all.map((count, at) => count - saved[at]!))
    for (const place of Object.values(places)) await guest.must(`cmp -n ${PATTERN} /tmp/pattern ${place}`)
  })

  test.each(kinds.map((kind, at) => [kind, at] as const))(
    '%s: the guest is stopped by ENOSPC, and runs on when there is room again',
    async (kind, at) => {
      const mood = moods[at]!
      stops.length = 0
      mood.failure = 'ENOSPC'
      const written = guest.run(`dd if=/tmp/pattern of=${places[kind]} bs=64k count=4 oflag=direct`)
      await expect.poll(() => guest.emulator.is_running(), { timeout: 60_000 }).toBe(false)
      expect(stops[0]).toBe(kind)
      mood.failure = undefined
      await guest.emulator.run()
      expect((await written).status).toBe(0)
    },
  )

  test.each(kinds.map((kind, at) => [kind, at] as const))(
    '%s: the guest is told EIO, and goes on',
    async (kind, at) => {
      moods[at]!.failure = 'EIO'
      const { status, output } = await guest.run(`dd if=/tmp/pattern of=${places[kind]} bs=4k count=1 oflag=direct`)
      moods[at]!.failure = undefined
      expect(status).not.toBe(0)
      expect(output).toMatch(/error/i)
      await guest.must(`dd if=/tmp/pattern of=${places[kind]} bs=64k oflag=direct`)
    },
  )
})
