/** `block86 run`: boots v86 in this terminal with the options that people type for QEMU. */

import { setTimeout } from 'node:timers/promises'
import { asDevice } from '../block/device.ts'
import type { Disk } from '../block/disk.ts'
import { openDisk } from '../block/open.ts'
import { cpuOf } from '../v86/internals.ts'
import { onPowerOff } from '../v86/power.ts'
import { attachDrives, type Drive } from '../v86.ts'
import { type DriveRequest, parseDrive } from './drive-options.ts'
import { type MachineOptions, makeEmulator } from './emulator.ts'
import { findFirmware } from './firmware.ts'
import { UsageError } from './getopt.ts'
import { openTree } from './nodes.ts'
import { Terminal } from './terminal.ts'
import { parseSize } from './units.ts'

const HELP = `Usage: block86 run [OPTION...]
Boots a machine whose serial port is this terminal.

  -m SIZE              memory, in MiB or with a suffix (default 256)
  -drive KEY=VALUE,... a drive, as often as needed: file=, format=, if=virtio|ide|scsi, media=disk|cdrom, cache=, aio=,
                       discard=, detect-zeroes=, copy-on-read=, snapshot=, readonly=, serial=, bootindex=, index=,
                       rerror=, werror=, logical_block_size=, physical_block_size=, discard_granularity=, throttling.*=;
                       if=scsi: scsi-id=, lun=, vendor=, product=, ver=, wwn=, removable=, rotation_rate=, chip=
  -cdrom FILE          a disc in a CD-ROM drive
  -snapshot            write to temporary files instead of the images
  -kernel FILE         boot this Linux kernel
  -initrd FILE         with this initial RAM disk
  -append TEXT         and this command line
  -bios FILE           SeaBIOS to start from (default: that of the package seabios)
  -machine acpi=on     offer ACPI and the APICs (default off)
  -nographic           as it is always

Ctrl-A X ends the machine, Ctrl-A H tells what else there is.
`

const STOP_MS = 2000

/** What a command line asks for. */
export interface RunRequest {
  readonly help: boolean
  /** RAM, MiB. */
  readonly memory: number
  readonly drives: readonly DriveRequest[]
  readonly bios?: string
  readonly kernel?: string
  readonly initrd?: string
  readonly append?: string
  readonly acpi: boolean
}

const VALUED = ['m', 'drive', 'cdrom', 'kernel', 'initrd', 'append', 'bios', 'machine'] as const
const PLAIN = ['snapshot', 'nographic', 'help', 'h'] as const

/** Names of all options, each behind one minus. */
export const RUN_OPTIONS: readonly string[] = [...VALUED, ...PLAIN]

/** Takes the command line apart; throws a UsageError or a BlockError that names what cannot be obeyed. */
export function parseRun(argv: readonly string[]): RunRequest {
  const given = new Map<string, string>()
  const drives: DriveRequest[] = []
  const flags = new Set<string>()
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i]!
    const name = word.replace(/^--?/, '')
    if (word === name) throw new UsageError(`'${word}' is no option; a disk is given as -drive file=${word},format=raw`)
    if ((PLAIN as readonly string[]).includes(name)) {
      flags.add(name)
      continue
    }
    if (!(VALUED as readonly string[]).includes(name)) {
      throw new UsageError(`unknown option '${word}'; block86 run --help tells the known ones`)
    }
    const value = argv[++i]
    if (value === undefined) throw new UsageError(`option '${word}' needs a value`)
    if (name === 'drive') drives.push(parseDrive(value))
    else if (name === 'cdrom') drives.push(parseDrive(`media=cdrom,file=${value.replaceAll(',', ',,')}`))
    else given.set(name, value)
  }
  for (const needs of ['initrd', 'append']) {
    if (given.has(needs) && !given.has('kernel')) throw new UsageError(`-${needs} needs -kernel`)
  }
  return {
    help: flags.has('help') || flags.has('h'),
    memory: memoryOf(given.get('m')),
    drives: flags.has('snapshot') ? drives.map(withSnapshot) : drives,
    acpi: acpiOf(given.get('machine')),
    ...pick(given, ['bios', 'kernel', 'initrd', 'append']),
  }
}

function pick(given: ReadonlyMap<string, string>, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(names.flatMap((name) => (given.has(name) ? [[name, given.get(name)!]] : [])))
}

function memoryOf(text = '256'): number {
  const bytes = parseSize(text.replace(/^size=/, ''), 'M')
  const memory = bytes === undefined ? 0 : Math.ceil(bytes / 2 ** 20)
  if (!(memory >= 1 && memory <= 2047)) throw new UsageError(`-m is '${text}', must be a size from 1M to 2047M`)
  return memory
}

function acpiOf(text: string | undefined): boolean {
  const found = text === undefined ? ['off'] : /^(?:pc,)?acpi=(on|off)$/.exec(text)?.slice(1)
  if (found === undefined) throw new UsageError(`-machine is '${text}', must be acpi=on or acpi=off`)
  return found[0] === 'on'
}

function withSnapshot(drive: DriveRequest): DriveRequest {
  if (drive.open.readOnly || drive.open.snapshot !== undefined) return drive
  return { ...drive, open: { ...drive.open, snapshot: true } }
}

/** Runs the verb to its end; resolves to its exit status. */
export async function run(argv: readonly string[]): Promise<number> {
  const request = parseRun(argv)
  if (request.help) {
    process.stdout.write(HELP)
    return 0
  }
  const firmware = findFirmware(request.bios)
  const disks: Disk[] = []
  try {
    const drives: Drive[] = []
    for (const drive of request.drives) {
      const disk = await openRequested(drive)
      if (disk !== undefined) disks.push(disk)
      drives.push(driveOf(drive, disk))
    }
    return await runMachine({ ...request, ...firmware }, drives)
  } catch (error) {
    for (const disk of disks) await disk.close()
    throw error
  }
}

async function openRequested({ file, open }: DriveRequest): Promise<Disk | undefined> {
  if (file === undefined) return undefined
  if (typeof file === 'string') return openDisk(file, open)
  const { readOnly, cache } = open
  const defaults = { ...(readOnly === undefined ? {} : { readOnly }), ...(cache === undefined ? {} : { cache }) }
  const device = await openTree(file, { format: 'raw', ...defaults })
  return openDisk(asDevice(device), { format: 'raw', ...open })
}

function driveOf({ if: kind, media, bootindex, index, device }: DriveRequest, disk: Disk | undefined): Drive {
  return {
    if: kind,
    media,
    ...(disk === undefined ? {} : { disk }),
    ...(bootindex === undefined ? {} : { bootindex }),
    ...(index === undefined ? {} : { index }),
    ...device,
  } as Drive
}

async function runMachine(options: MachineOptions, wanted: readonly Drive[]): Promise<number> {
  const { emulator, loaded } = await makeEmulator(options)
  const drives = await attachDrives(emulator, wanted, {
    onStop: (_, error) => process.stderr.write(`\r\nblock86: ${error.message}; Ctrl-A R runs on\r\n`),
  })
  await loaded
  return new Promise((resolve, reject) => {
    const terminal = new Terminal({
      send: (bytes) => emulator.serial_send_bytes(0, bytes),
      quit: () => finish(0),
      resume: () => void emulator.run(),
    })
    let finished = false
    const finish = (status: number) => {
      if (finished) process.exit(1)
      finished = true
      const end = async () => {
        // An emulator that failed never says that it has stopped.
        await Promise.race([emulator.stop(), setTimeout(STOP_MS, undefined, { ref: false })])
        terminal.close()
        await drives.close()
        await emulator.destroy()
        return status
      }
      end().then(resolve, reject)
    }
    emulator.add_listener('serial0-output-byte', (byte) => terminal.put(byte))
    onPowerOff(emulator, cpuOf(emulator)!, () => setImmediate(() => finish(0)))
    process.on('SIGINT', () => finish(130))
    process.on('SIGTERM', () => finish(143))
    process.on('SIGHUP', () => finish(129))
    process.on('uncaughtException', (error) => {
      process.stderr.write(`\r\nblock86: the emulator failed: ${error.message}\r\n`)
      finish(1)
    })
    void emulator.run()
  })
}
