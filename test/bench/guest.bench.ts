/**
 * `npm run bench -- guest`: fio in a Debian guest, on block86's controllers with a raw file behind each, on v86's own IDE disk, in RAM
 * and on the host's disk, and on a RAM disk inside the guest (brd). They take turns in one run; block86's IDE and v86's cannot be in one
 * guest, so that there are two then, which take turns too.
 */
import { buildDebianGuest, type DebianGuest } from '../../guests/debian/index.ts'
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
  --turns N          how often the devices take turns in one fio; each turn is a count (default 1)
  --rounds N         of as many fios for each cell (default 1)
  --boots N          of as many guests: what v86 compiles together, and so how quick a way is, differs from one to the next (default 1)
  --warm S           time for each before the first round, in which v86 compiles (default 0.5)
  --scheduler NAME   the disks' I/O scheduler, if not the one that Linux chooses
`

interface Options {
  readonly devices: readonly Device[]
  readonly chosen: readonly Cell[]
  readonly seconds: number
  readonly turns: number
  readonly rounds: number
  readonly boots: number
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
  const boots: Map<Device, Column>[][] = []
  while (boots.length < options.boots) boots.push(await measureBoot(debian, options))
  const columns = boots[0]!.map((_, machine) => together(boots.map((each) => each[machine]!)))
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

/** What the machines say that were booted together. */
async function measureBoot(debian: DebianGuest, options: Options): Promise<Map<Device, Column>[]> {
  const folder = temporaryFolder()
  const machines: Machine[] = []
  try {
    for (const [at, devices] of machinesFor(options.devices).entries()) {
      console.log(`booting a guest with ${devices.join(', ')}`)
      const file = (name: string) => folder.file(`${at}-${name}`)
      machines.push(await startMachine(debian, devices, file, options.scheduler))
      await machines.at(-1)!.guest.emulator.stop()
    }
    return await measure(machines, options)
  } finally {
    for (const { guest } of machines) await guest.close()
    folder.remove()
  }
}

/** The counts of several boots of one machine as if of one. */
function together(boots: readonly Map<Device, Column>[]): Map<Device, Column> {
  return new Map(
    [...boots[0]!].map(([device, column]) => [
      device,
      column.map((_, cell) => boots.flatMap((boot) => boot.get(device)![cell]!)),
    ]),
  )
}

function parse(args: readonly string[]): Options | undefined {
  const given = new Map<string, string[]>()
  for (let at = 0; at < args.length; at += 2) {
    const [name, value] = [args[at]!, args[at + 1]]
    if (
      !['--devices', '--only', '--seconds', '--turns', '--rounds', '--boots', '--warm', '--scheduler'].includes(name) ||
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
    turns: number('--turns', 1),
    rounds: number('--rounds', 1),
    boots: number('--boots', 1),
    warm: number('--warm', 0.5),
    scheduler: given.get('--scheduler')?.[0],
  }
  const sane =
    devices.length === names.length &&
    chosen.length > 0 &&
    Math.min(options.turns, options.rounds, options.boots) >= 1 &&
    options.seconds > 0
  return sane ? options : undefined
}

/** What all machines say, in turn, so that what disturbs the host disturbs all: only one of them runs at a time. */
async function measure(
  machines: readonly Machine[],
  { chosen, seconds, turns, rounds, warm }: Options,
): Promise<Map<Device, Column>[]> {
  const counts = machines.map(({ places }) => [...places.keys()].map(() => chosen.map((): number[] => [])))
  const round = async (time: number, turns: number, count: boolean) => {
    for (let at = 0; at < chosen.length; at += AT_ONCE) {
      const some = chosen.slice(at, at + AT_ONCE)
      for (const [place, machine] of machines.entries()) {
        const found = await measureCells(machine, some, time, turns)
        if (!count) continue
        for (const [row, speeds] of found.entries())
          for (const [device, cells] of counts[place]!.entries())
            cells[at + (row % some.length)]!.push(speeds[device] ?? Number.NaN)
      }
    }
  }
  console.log(`warming up, ${warm} s for each cell and device`)
  if (warm > 0) await round(warm, 1, false)
  for (let number = 1; number <= rounds; number++) {
    console.log(`round ${number}, ${turns > 1 ? `${turns} times ` : ''}${seconds} s for each cell and device`)
    await round(seconds, turns, true)
  }
  return machines.map(
    ({ places }, machine) => new Map([...places.keys()].map((device, at) => [device, counts[machine]![at]!])),
  )
}

/** Has a machine that stands still measure some cells: MiB/s by turn and cell, then by device. */
async function measureCells(
  { guest, places }: Machine,
  some: readonly Cell[],
  seconds: number,
  turns: number,
): Promise<number[][]> {
  await guest.emulator.run()
  await guest.must(`cat > /tmp/jobs <<'END'\n${jobFile(some, [...places.values()], SIZE, seconds, turns)}END`)
  const output = await guest.must('fio --output-format=terse --terse-version=3 /tmp/jobs', { timeout: 3_600_000 })
  await guest.emulator.stop()
  const found = speeds(output)
  const rows = Array.from({ length: turns * some.length }, (_, row) => found[row] ?? [])
  for (const [row, speed] of rows.entries()) {
    const { name } = some[row % some.length]!
    console.log(`  ${name}: ${[...places.keys()].map((device, i) => `${device} ${speed[i]?.toFixed(1)}`).join(', ')}`)
  }
  return rows
}
