/** The scripted session of `npm start -- --self-test`: a guest writes, reboots, and finds it again, and so does another program. */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { copyFile, mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Disk } from '../src/block/disk.ts'
import { openDisk } from '../src/block/open.ts'
import type { MachineOptions } from '../src/cli/emulator.ts'
import { humanSize } from '../src/cli/units.ts'
import type { Drive } from '../src/v86.ts'
import { bootGuest, type Guest, giveArguments } from './harness.ts'

export interface SessionOptions extends Partial<Omit<MachineOptions, 'v86'>> {
  readonly if: 'virtio' | 'ide' | 'scsi'
  /** Raw disk to boot from; a copy of it is used. */
  readonly disk: string
  /** What is booted, for people. */
  readonly name: string
  /** More kernel arguments for the boot loader of a guest that was built here. */
  readonly arguments?: string
  /** When the program started, ms since 1970. */
  readonly started: number
}

const DATA_BYTES = 32 << 20
/** Far more than any machine needs that is not busy with other things. */
const BOOT_MS = 900_000

const runProgram = promisify(execFile)

/** Runs the session and prints what happens; resolves to the exit status. */
export async function session(options: SessionOptions): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'block86-'))
  const step = (text: string) =>
    console.log(`[${((Date.now() - options.started) / 1000).toFixed(1).padStart(5)} s] ${text}`)
  let guest: Guest | undefined
  try {
    const root = join(folder, 'root.img')
    const data = join(folder, 'data.img')
    await copyFile(options.disk, root)
    const file = await open(data, 'w')
    await file.truncate(DATA_BYTES)
    await file.close()
    const disks = [await openDisk(root, { format: 'raw' }), await openDisk(data, { format: 'raw' })] as const
    if (options.arguments !== undefined) await giveArguments(disks[0], options.arguments)
    step(`booting ${options.name} from a ${options.if} disk`)
    guest = await boot(options, disks)
    const sum = await write(guest, options.if, step)
    await reboot(guest, step)
    await verify(guest, options.if, step)
    step('turning the guest off')
    guest.type('poweroff\n')
    await guest.poweredOff
    await guest.close()
    await verifyOutside(data, sum, step)
    summary(options, disks)
    return 0
  } catch (error) {
    await guest?.close()
    throw error
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function boot(options: SessionOptions, [root, data]: readonly [Disk, Disk]): Promise<Guest> {
  const { if: kind, disk: _, name: __, started: ___, arguments: ____, ...machine } = options
  const drives = [
    { if: kind, disk: root, serial: 'root', bootindex: 1 },
    { if: kind, disk: data, serial: 'data' },
  ] as Drive[]
  return bootGuest({ drives, ...machine })
}

/** The names of the guest's disks: Linux gives them in the order in which it is done with looking at each. */
async function names(guest: Guest, kind: SessionOptions['if']): Promise<{ mounted: string; data: string }> {
  const mounted = await guest.must("sed -n 's,^\\(/dev/[^ ]*\\) / .*,\\1,p' /proc/mounts")
  const prefix = kind === 'virtio' ? '/dev/vd' : '/dev/sd'
  const letter = /^[ab](?=\d+$)/.exec(mounted.startsWith(prefix) ? mounted.slice(prefix.length) : '')?.[0]
  if (letter === undefined) throw new Error(`the guest's root is ${mounted}, not on ${prefix}a or ${prefix}b`)
  return { mounted, data: prefix + (letter === 'a' ? 'b' : 'a') }
}

/** Formats the second disk, writes to it and trims it; returns the MD5 of all of it. */
async function write(guest: Guest, kind: SessionOptions['if'], step: (text: string) => void): Promise<string> {
  await started(guest, step)
  const { mounted, data } = await names(guest, kind)
  step(`the kernel has its root on ${mounted}`)
  step(`formatting ${data} with ext4 and copying programs to it`)
  // Few programs, for the start of each costs an emulated machine a tenth of a second.
  await guest.must(`mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 ${data} && mount -o nodiscard ${data} /mnt`)
  await guest.must(
    'cd /mnt && cp /usr/bin/bash one && cp one two && cp one gone && md5sum one two > sums && rm gone && cd && sync',
  )
  step('giving back what was deleted (fstrim)')
  step(await guest.must('fstrim -v /mnt && umount /mnt'))
  return (await guest.must(`md5sum ${data}`)).split(' ')[0]!
}

async function reboot(guest: Guest, step: (text: string) => void): Promise<void> {
  step('rebooting')
  guest.type('reboot\n')
  await started(guest, step)
}

async function started(guest: Guest, step: (text: string) => void): Promise<void> {
  const facts = await guest.waitFor(/Linux version \S+/, { timeout: BOOT_MS })
  step(`the firmware read the boot loader, and that the kernel: ${facts}`)
  await guest.ready({ timeout: BOOT_MS })
}

async function verify(guest: Guest, kind: SessionOptions['if'], step: (text: string) => void): Promise<void> {
  const { data } = await names(guest, kind)
  await guest.must(`e2fsck -fn ${data} && mount -o ro ${data} /mnt`)
  const files = await guest.must('cd /mnt && md5sum -c sums && cd && umount /mnt')
  step(`seen from inside: the file system is sound, ${files.split('\n').join(', ')}`)
}

/** Opens the image with other programs: e2fsck where it is installed, and a process that hashes it. */
async function verifyOutside(data: string, sum: string, step: (text: string) => void): Promise<void> {
  const hash = `const h=require('crypto').createHash('md5');require('fs').createReadStream(process.argv[1])
    .on('data',(d)=>h.update(d)).on('end',()=>console.log(h.digest('hex')))`
  const { stdout } = await runProgram(process.execPath, ['-e', hash, data])
  if (stdout.trim() !== sum) throw new Error(`outside the image has MD5 ${stdout.trim()}, inside it had ${sum}`)
  const e2fsck = ['/usr/sbin/e2fsck', '/sbin/e2fsck'].find((path) => existsSync(path))
  if (e2fsck !== undefined) await runProgram(e2fsck, ['-fn', data])
  const also = e2fsck === undefined ? '' : ', and e2fsck finds it sound'
  step(`seen from outside: another process reads the same ${humanSize(DATA_BYTES)}${also}`)
}

function summary({ name, if: kind, started }: SessionOptions, disks: readonly Disk[]): void {
  console.log(`\nBooted ${name} twice from ${kind}, in ${((Date.now() - started) / 1000).toFixed(1)} s in all.`)
  const rows = [['', 'reads', '', 'writes', '', 'flushes', 'discards', '', 'zeroes', 'errors']]
  for (const [index, { stats }] of disks.entries()) {
    rows.push(
      [
        index === 0 ? 'root' : 'data',
        ...[stats.reads, humanSize(stats.bytesRead), stats.writes, humanSize(stats.bytesWritten), stats.flushes],
        ...[stats.discards, humanSize(stats.bytesDiscarded), stats.zeroes, stats.errors],
      ].map(String),
    )
  }
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  for (const row of rows) console.log(row.map((cell, column) => cell.padStart(widths[column]!)).join('  '))
}
