/**
 * `npm run bench -- guest`: fio in a Debian guest, on block86's virtio-blk with a raw file behind it, on v86's own IDE disk that lies
 * in RAM, and on a RAM disk inside the guest (brd), which is the most that the guest can do. All in one run, taking turns.
 *
 * Options: `--rounds N` (default 2; the median counts), `--seconds S` for each cell (default 1), `--only TEXT` for cells whose name holds it.
 */
import { truncate, writeFile } from 'node:fs/promises'
import { buildDebianGuest } from '../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../guests/harness.ts'
import { openDisk } from '../../src/block/open.ts'
import { temporaryFolder } from '../tools.ts'

const MIB = 1 << 20
const SIZE = 32 * MIB

const DEVICES = { block86: '/dev/vdb', ide: '/dev/sda', brd: '/dev/ram0' } as const
type Device = keyof typeof DEVICES
const devices = Object.keys(DEVICES) as Device[]

interface Cell {
  readonly name: string
  readonly direct: boolean
  readonly block: number
  readonly fio: readonly string[]
}

function cells(): Cell[] {
  const all: Cell[] = []
  for (const direct of [true, false]) {
    for (const block of [4, 16, 256, 1024]) {
      for (const write of [false, true]) {
        for (const depth of [1, 32]) {
          const random = block <= 16
          all.push({
            name: `${direct ? 'direct' : 'buffered'} ${random ? 'random' : 'sequential'} ${write ? 'write' : 'read'} ${block}k depth ${depth}`,
            direct,
            block,
            fio: [
              `rw=${random ? 'rand' : ''}${write ? 'write' : 'read'}`,
              `bs=${block}k`,
              `direct=${direct ? 1 : 0}`,
              ...(depth === 1 ? ['ioengine=psync'] : ['ioengine=libaio', `iodepth=${depth}`]),
              ...(write ? ['end_fsync=1'] : []),
            ],
          })
        }
      }
    }
  }
  return all
}

/** Runs the benchmark; resolves to the exit status. */
export async function run(args: readonly string[]): Promise<number> {
  const value = (name: string, otherwise: number) => {
    const at = args.indexOf(`--${name}`)
    return at < 0 ? otherwise : Number(args[at + 1])
  }
  const only = args.includes('--only') ? args[args.indexOf('--only') + 1]! : ''
  const chosen = cells().filter((cell) => cell.name.includes(only))
  const folder = temporaryFolder()
  try {
    const guest = await boot(folder.file('bench.img'))
    try {
      await measure(guest, chosen, 0.2)
      const rounds: Record<Device, number[]>[] = []
      for (let round = 0; round < value('rounds', 2); round++) {
        console.log(`round ${round + 1}`)
        rounds.push(await measure(guest, chosen, value('seconds', 1)))
      }
      report(chosen, rounds)
    } finally {
      await guest.close()
    }
  } finally {
    folder.remove()
  }
  return 0
}

async function boot(image: string): Promise<Guest> {
  const debian = await buildDebianGuest({ onProgress: (message) => console.log(message) })
  await writeFile(image, '')
  await truncate(image, SIZE)
  const guest = await bootGuest({
    guest: debian,
    drives: [
      { if: 'virtio', disk: await openGuestDisk(debian), bootindex: 1 },
      { if: 'virtio', disk: await openDisk(image, { format: 'raw' }) },
    ],
    v86: { hda: { buffer: new ArrayBuffer(SIZE) } },
  })
  console.log('booting')
  await guest.ready()
  await guest.must(`modprobe brd rd_nr=1 rd_size=${SIZE / 1024}`)
  for (const device of devices)
    await guest.must(`dd if=/dev/zero of=${DEVICES[device]} bs=1M 2> /dev/null || true; sync`)
  return guest
}

/** One fio with a job for each cell and device; gives MiB/s. */
async function measure(guest: Guest, chosen: readonly Cell[], seconds: number): Promise<Record<Device, number[]>> {
  const global = ['[global]', `size=${SIZE}`, 'time_based', `runtime=${seconds * 1000}ms`, 'thread', 'gtod_reduce=1']
  const jobs = chosen.flatMap(({ fio }, at) =>
    devices.flatMap((device) => [`[${at}-${device}]`, 'stonewall', `filename=${DEVICES[device]}`, ...fio]),
  )
  const lines = [...global, 'norandommap', 'randrepeat=1', ...jobs]
  await guest.must(`cat > /tmp/jobs <<'END'\n${lines.join('\n')}\nEND`)
  const output = await guest.must('fio --output-format=terse --terse-version=3 /tmp/jobs', { timeout: 3_600_000 })
  const result: Record<Device, number[]> = { block86: [], ide: [], brd: [] }
  for (const line of output.split('\n')) {
    const fields = line.split(';')
    const [at, device] = (fields[2] ?? '').split('-')
    if (fields[0] !== '3' || device === undefined) continue
    // Fields 7 and 48 of the terse format: bandwidth of reads and of writes, KiB/s.
    result[device as Device][Number(at)] = (Number(fields[6]) + Number(fields[47])) / 1024
  }
  return result
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN
}

function report(chosen: readonly Cell[], rounds: readonly Record<Device, number[]>[]): void {
  const head = ['MiB/s', ...devices, 'IOPS', 'of ide', 'of brd']
  const rows = chosen.map((cell, at) => {
    const [own, ide, brd] = devices.map((device) => median(rounds.map((round) => round[device][at] ?? Number.NaN)))
    const speeds = [own!, ide!, brd!].map((speed) => speed.toFixed(1))
    const iops = Math.round((own! * 1024) / cell.block)
    return {
      cell,
      own: own!,
      ide: ide!,
      brd: brd!,
      text: [cell.name, ...speeds, iops, `${(own! / ide!).toFixed(2)}x`, `${(own! / brd!).toFixed(2)}x`].map(String),
    }
  })
  const table = [head, ...rows.map(({ text }) => text)]
  const widths = head.map((_, column) => Math.max(...table.map((row) => row[column]!.length)))
  for (const row of table) {
    console.log(row.map((text, at) => (at === 0 ? text.padEnd(widths[0]!) : text.padStart(widths[at]!))).join('  '))
  }
  const least = (name: string, values: readonly number[], target: number) => {
    if (values.length === 0) return
    const worst = Math.min(...values)
    console.log(`${worst >= target ? 'reached' : 'MISSED '}  ${name}: at least ${target}, worst is ${worst.toFixed(2)}`)
  }
  least(
    '4 KiB O_DIRECT, of v86 IDE',
    rows.filter(({ cell }) => cell.direct && cell.block === 4).map(({ own, ide }) => own / ide),
    5,
  )
  least(
    '1 MiB, of brd',
    rows.filter(({ cell }) => cell.block === 1024).map(({ own, brd }) => own / brd),
    0.9,
  )
  least(
    'every cell, of v86 IDE',
    rows.map(({ own, ide }) => own / ide),
    1,
  )
}
