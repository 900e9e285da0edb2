/**
 * `npm run bench -- guest`: fio in a Debian guest, on block86's controllers with a raw file behind each, on v86's own IDE disk, in RAM
 * and on the host's disk, and on a RAM disk inside the guest (brd). They take turns in one run; block86's IDE and v86's cannot be in one
 * guest, so that there are two then, which take turns too.
 */
import { buildDebianGuest } from '../../guests/debian/index.ts'
import { temporaryFolder } from '../tools.ts'
import { type Cell, chosenCells, jobFile, speeds } from './guest/cells.ts'
import { DEVICES, type Device, type Machine, machinesFor, SIZE, startMachine } from './guest/machine.ts'
import { type Column, printTable, printTargets } from './guest/table.ts'

/** Cells that one fio measures before another machine has its turn. */
const AT_ONCE = 2

const HELP = `npm run bench -- guest [OPTION...]

  --devices A,B      of ${DEVICES.join(', ')} (default all)
  --only TEXT        cells whose names hold each word of it, such as 'direct read 4k'; as often as needed
  --seconds S        time for each cell on each device (default 1)
  --rounds N         the median of as many counts (default 1)
  --warm S           time for each before the first round, in which v86 compiles (default 0.5)
  --scheduler NAME   the disks' I/O scheduler, if not the one that Linux chooses
`

interface Options {
  readonly devices: readonly Device[]
  readonly chosen: readonly Cell[]
  readonly seconds: number
  readonly rounds: number
  readonly warm: number
  readonly scheduler: string | undefined
}

/** Runs the benchmark; resolves to the exit status. */
export async function run(args: readonly string[]): Promise<number> {
  const options = parse(args)
  if (options === undefined) {
    console.error(HELP)
    return 2
  }
  const debian = await buildDebianGuest({ onProgress: (message) => console.log(message) })
  const folder = temporaryFolder()
  const machines: Machine[] = []
  let columns: Map<Device, Column>[]
  try {
    for (const [at, devices] of machinesFor(options.devices).entries()) {
      console.log(`booting a guest with ${devices.join(', ')}`)
      const file = (name: string) => folder.file(`${at}-${name}`)
      machines.push(await startMachine(debian, devices, file, options.scheduler))
      await machines.at(-1)!.guest.emulator.stop()
    }
    columns = await measure(machines, options)
  } finally {
    for (const { guest } of machines) await guest.close()
    folder.remove()
  }
  const [first, last] = [columns[0]!, columns.at(-1)!]
  const all = new Map(
    DEVICES.flatMap((device) => {
      const column = first.get(device) ?? last.get(device)
      return column === undefined ? [] : [[device, column] as const]
    }),
  )
  const results = { columns: all, besideIde: last }
  console.log()
  printTable(options.chosen, results)
  console.log()
  printTargets(options.chosen, results)
  return 0
}

function parse(args: readonly string[]): Options | undefined {
  const given = new Map<string, string[]>()
  for (let at = 0; at < args.length; at += 2) {
    const [name, value] = [args[at]!, args[at + 1]]
    if (
      !['--devices', '--only', '--seconds', '--rounds', '--warm', '--scheduler'].includes(name) ||
      value === undefined
    )
      return
    given.set(name, [...(given.get(name) ?? []), value])
  }
  const number = (name: string, otherwise: number) => Number(given.get(name)?.[0] ?? otherwise)
  const names = given.get('--devices')?.flatMap((value) => value.split(',')) ?? DEVICES
  const devices = DEVICES.filter((device) => names.includes(device))
  const chosen = chosenCells(given.get('--only') ?? [])
  const options = {
    devices,
    chosen,
    seconds: number('--seconds', 1),
    rounds: number('--rounds', 1),
    warm: number('--warm', 0.5),
    scheduler: given.get('--scheduler')?.[0],
  }
  const sane = devices.length === names.length && chosen.length > 0 && options.rounds >= 1 && options.seconds > 0
  return sane ? options : undefined
}

/** What all machines say, in turn, so that what disturbs the host disturbs all: only one of them runs at a time. */
async function measure(
  machines: readonly Machine[],
  { chosen, seconds, rounds, warm }: Options,
): Promise<Map<Device, Column>[]> {
  const round = async (time: number): Promise<number[][][]> => {
    const counts: number[][][] = machines.map(() => [])
    for (let at = 0; at < chosen.length; at += AT_ONCE) {
      const some = chosen.slice(at, at + AT_ONCE)
      for (const [place, machine] of machines.entries()) counts[place]!.push(...(await turn(machine, some, time)))
    }
    return counts
  }
  console.log(`warming up, ${warm} s for each cell and device`)
  if (warm > 0) await round(warm)
  const all: number[][][][] = []
  while (all.length < rounds) {
    console.log(`round ${all.length + 1}, ${seconds} s for each cell and device`)
    all.push(await round(seconds))
  }
  return machines.map(
    ({ places }, machine) =>
      new Map(
        [...places.keys()].map((device, at) => [
          device,
          chosen.map((_, cell) => all.map((each) => each[machine]?.[cell]?.[at] ?? Number.NaN)),
        ]),
      ),
  )
}

/** Has a machine that stands still measure some cells: MiB/s of each cell, by device. */
async function turn({ guest, places }: Machine, some: readonly Cell[], seconds: number): Promise<number[][]> {
  await guest.emulator.run()
  await guest.must(`cat > /tmp/jobs <<'END'\n${jobFile(some, [...places.values()], SIZE, seconds)}END`)
  const output = await guest.must('fio --output-format=terse --terse-version=3 /tmp/jobs', { timeout: 3_600_000 })
  await guest.emulator.stop()
  const found = speeds(output)
  return some.map(({ name }, cell) => {
    const speed = found[cell] ?? []
    console.log(`  ${name}: ${[...places.keys()].map((device, i) => `${device} ${speed[i]?.toFixed(1)}`).join(', ')}`)
    return speed
  })
}
