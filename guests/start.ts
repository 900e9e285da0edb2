/** What `npm start` does once everything is installed: a guest in this terminal, or the scripted session. */

import { existsSync } from 'node:fs'
import { copyFile, mkdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { messageOf } from '../src/block/error.ts'
import { run as runVerb } from '../src/cli/run.ts'
import { cacheDirectory } from './cache.ts'
import { buildDebianGuest } from './debian/index.ts'
import { type SessionOptions, session } from './session.ts'

const HELP = `npm start [-- OPTION...]

  --self-test          run the scripted session also on a terminal
  --if=virtio|ide|scsi the controller that the guest boots from (default virtio)
  --fresh              forget what was written to the guest's disk before
  --disk FILE          boot this raw disk instead of building one
  --kernel FILE        boot this kernel directly, with
  --initrd FILE        this initial RAM disk
  --append TEXT        and this command line
  --bios FILE          SeaBIOS to start from (default: the one that is fetched with the guest)
`

const VALUED = ['if', 'disk', 'kernel', 'initrd', 'append', 'bios'] as const
const INTERFACES = ['virtio', 'ide', 'scsi'] as const
const DRIVERS = { virtio: 'virtio_pci,virtio_blk', ide: 'ata_piix', scsi: 'sym53c8xx' } as const
const APPEND = 'console=ttyS0 tsc=reliable mitigations=off random.trust_cpu=on'

/** Runs it; resolves to the exit status. */
export async function run(args: readonly string[]): Promise<number> {
  try {
    const options = parse(args)
    if (options.has('help')) {
      console.log(HELP)
      return 0
    }
    const machine = await machineOf(options)
    if (options.has('self-test') || !process.stdin.isTTY || !process.stdout.isTTY) return await session(machine)
    return await interactive(machine, options.has('fresh'))
  } catch (error) {
    console.error(`npm start: ${messageOf(error)}`)
    return 1
  }
}

function parse(args: readonly string[]): Map<string, string> {
  const options = new Map<string, string>()
  for (let i = 0; i < args.length; i++) {
    const [, name, value] = /^--([a-z-]+)(?:=(.*))?$/s.exec(args[i]!) ?? []
    if (name !== undefined && (VALUED as readonly string[]).includes(name)) {
      const given = value ?? args[++i]
      if (given === undefined) throw new Error(`--${name} needs a value`)
      options.set(name, given)
    } else if (value === undefined && (name === 'self-test' || name === 'fresh' || name === 'help'))
      options.set(name, '')
    else throw new Error(`unknown option '${args[i]}'; npm start -- --help tells the known ones`)
  }
  return options
}

/** The guest of the command line, or the one that is built here. */
async function machineOf(options: ReadonlyMap<string, string>): Promise<SessionOptions> {
  const kind = INTERFACES.find((name) => name === (options.get('if') ?? 'virtio'))
  if (kind === undefined) throw new Error(`--if is '${options.get('if')}', must be ${INTERFACES.join(', ')}`)
  const started = Date.now()
  const disk = options.get('disk')
  const given = Object.fromEntries(
    [...options].filter(([name]) => ['kernel', 'initrd', 'append', 'bios'].includes(name)),
  )
  if (disk !== undefined) return { if: kind, disk, name: basename(disk), started, ...kernelDefaults(kind, given) }
  const guest = await buildDebianGuest({
    onProgress: (message) => console.log(`[${seconds(started)}] ${message}`),
  })
  const { bios, vgabios, kernelVersion } = guest
  return {
    if: kind,
    disk: guest.disk,
    name: `Debian with Linux ${kernelVersion}, SeaBIOS ${guest.versions.seabios}`,
    started,
    bios,
    vgabios,
    // Looking for drives on other controllers as well would take the guest longer than all the rest.
    arguments: `drivers=${DRIVERS[kind]}`,
    ...kernelDefaults(kind, given),
  }
}

function kernelDefaults(kind: SessionOptions['if'], given: Record<string, string>): Record<string, string> {
  const root = kind === 'virtio' ? '/dev/vda1' : '/dev/sda1'
  return given.kernel === undefined ? given : { append: `root=${root} ${APPEND}`, ...given }
}

export function seconds(since: number): string {
  return `${((Date.now() - since) / 1000).toFixed(1).padStart(5)} s`
}

/** The guest in this terminal, on a disk of its own that keeps what is written. */
async function interactive(machine: SessionOptions, fresh: boolean): Promise<number> {
  const folder = join(cacheDirectory(), 'start')
  await mkdir(folder, { recursive: true })
  const disk = join(folder, `${basename(dirname(machine.disk))}.img`)
  if (fresh) await rm(disk, { force: true })
  if (!existsSync(disk)) {
    await copyFile(machine.disk, `${disk}.unfinished`)
    await rename(`${disk}.unfinished`, disk)
  }
  console.log(`Booting ${machine.name} from ${disk}; Ctrl-A X ends it, Ctrl-A H helps.`)
  const drive = `file=${disk.replaceAll(',', ',,')},format=raw,if=${machine.if},serial=root,bootindex=1`
  const words = ['bios', 'kernel', 'initrd', 'append'] as const
  const more = words.flatMap((name) => (machine[name] === undefined ? [] : [`-${name}`, machine[name]]))
  return runVerb(['-m', '256', '-drive', drive, ...more])
}
