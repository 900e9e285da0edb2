/**
 * `npm run bench -- guest`: fio in a Debian guest, on block86's controllers with a raw file behind each, on v86's own IDE disk that lies
 * in RAM, and on a RAM disk inside the guest (brd). They take turns cell by cell, in one run.
 */
import { buildDebianGuest, type DebianGuest } from '../../guests/debian/index.ts'
import { temporaryFolder } from '../tools.ts'
import { type Cell, chosenCells, jobFile, speeds } from './guest/cells.ts'
import { DEVICES, type Device, machinesFor, SIZE, startMachine } from './guest/machine.ts'
import { type Column, printTable, printTargets } from './guest/table.ts'

/** Cells that one fio measures, so that the others are known if the rest goes wrong. */
const AT_ONCE = 4

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
  const [first, second] = machinesFor(options.devices)
  const columns = await measureMachine(debian, first!, options)
  const besideIde = second === undefined ? columns : await measureMachine(debian, second, options)
  const all = new Map(
    DEVICES.flatMap((device) => {
      const column = columns.get(device) ?? besideIde.get(device)
      return column === undefined ? [] : [[device, column] as const]
    }),
  )
  const results = { columns: all, besideIde }
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

async function measureMachine(
  debian: DebianGuest,
  devices: readonly Device[],
  options: Options,
): Promise<ReadonlyMap<Device, Column>> {
  console.log(`booting a guest with ${devices.join(', ')}`)
  const { chosen, scheduler } = options
  const folder = temporaryFolder()
  try {
    const { guest, paths } = await startMachine(debian, devices, (name) => folder.file(name), scheduler)
    try {
      const round = async (seconds: number) => {
        const counts: number[][] = []
        for (let at = 0; at < chosen.length; at += AT_ONCE) {
          const some = chosen.slice(at, at + AT_ONCE)
          await guest.must(`cat > /tmp/jobs <<'END'\n${jobFile(some, [...paths.values()], SIZE, seconds)}END`)
          const output = await guest.must('fio --output-format=terse --terse-version=3 /tmp/jobs', {
            timeout: 3_600_000,
          })
          const found = speeds(output)
          for (const [cell, { name }] of some.entries()) {
            const speed = found[cell] ?? []
            counts.push(speed)
            console.log(`  ${name}: ${devices.map((device, i) => `${device} ${speed[i]?.toFixed(1)}`).join(', ')}`)
          }
        }
        return counts
      }
      console.log(`warming up, ${chosen.length * devices.length} times ${options.warm} s`)
      if (options.warm > 0) await round(options.warm)
      const rounds: number[][][] = []
      while (rounds.length < options.rounds) {
        console.log(`round ${rounds.length + 1}, ${chosen.length * devices.length} times ${options.seconds} s`)
        rounds.push(await round(options.seconds))
      }
      return new Map(
        [...paths.keys()].map((device, at) => [
          device,
          chosen.map((_, cell) => median(rounds.map((each) => each[cell]?.[at] ?? Number.NaN))),
        ]),
      )
    } finally {
      await guest.close()
    }
  } finally {
    folder.remove()
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN
}
