/** `block86 run` as a process: what it says to bad input, how it ends, and what it holds in memory. The guest is a few instructions. */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { host } from '../../src/block/protocols/node/index.ts'
import { bundledTool, lacks, runTool, temporaryFolder } from '../tools.ts'
import { Program } from '../v86/bare.ts'

const MIB = 1 << 20
const SERIAL = 0x3f8
const IDE = (1 << 3) | 1
const PATTERN = 0x5a5a5a5a

let tool: Awaited<ReturnType<typeof bundledTool>>
let folder: ReturnType<typeof temporaryFolder>
let children: ChildProcess[]

beforeAll(async () => {
  tool = await bundledTool()
})
afterAll(() => tool.remove())
beforeEach(() => {
  folder = temporaryFolder()
  children = []
})
afterEach(() => {
  for (const child of children) child.kill('SIGKILL')
  chmodSync(folder.path, 0o755)
  folder.remove()
})

interface Ended {
  readonly status: number | null
  readonly out: string
  readonly err: string
}

interface Running {
  readonly child: ChildProcess
  /** Resolves when the guest has written `text` to its serial port. */
  said(text: string): Promise<void>
  readonly ended: Promise<Ended>
}

/** Starts the tool; as another user where that is root, whom no file refuses anything. */
function start(args: readonly string[], { asNobody = false } = {}): Running {
  const user = asNobody && process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {}
  const child = spawn(process.execPath, [tool.file, 'run', ...args], { stdio: ['ignore', 'pipe', 'pipe'], ...user })
  children.push(child)
  let [out, err] = ['', '']
  const watchers = new Set<() => void>()
  child.stdout!.on('data', (bytes) => {
    out += bytes
    for (const watch of watchers) watch()
  })
  child.stderr!.on('data', (bytes) => (err += bytes))
  const ended = new Promise<Ended>((resolve) => child.on('close', (status) => resolve({ status, out, err })))
  const said = (text: string) =>
    new Promise<void>((resolve, reject) => {
      const watch = () => out.includes(text) && resolve()
      watchers.add(watch)
      watch()
      void ended.then(() => reject(new Error(`it ended before it said ${text}: ${out} ${err}`)))
    })
  return { child, said, ended }
}

/** A BIOS that runs `program` and then turns the machine off, which a `spin` in it prevents. */
function bios(program: Program): string {
  const file = folder.file('bios.bin')
  writeFileSync(file, new Uint8Array(program.image()))
  writeFileSync(folder.file('vgabios.bin'), new Uint8Array(512))
  return file
}

const say = (program: Program, letter: string) => program.out(SERIAL, 1, letter.charCodeAt(0))

/** Writes the pattern to the first sector of the first IDE disk, without a flush. */
function writesSector(program: Program): Program {
  for (let at = 0; at < 512; at += 4) program.store(0x5000 + at, 4, PATTERN)
  program.configure(IDE, 0x40, 4, 0x80008000).configure(IDE, 0x04, 2, 5)
  for (const [register, value] of [
    [6, 0xe0],
    [2, 1],
    [3, 0],
    [4, 0],
    [5, 0],
    [7, 0x30],
  ] as const)
    program.out(0x1f0 + register, 1, value)
  return program.outs(0x1f0, 4, 0x5000, 128).in(0x1f7, 1)
}

function raw(name: string, size = MIB): string {
  const file = folder.file(name)
  writeFileSync(file, '')
  truncateSync(file, size)
  return file
}

/** Every file in the folder, with what tells whether it was touched. */
function contents(): unknown {
  return readdirSync(folder.path).map((name) => {
    const { size, mtimeMs } = statSync(folder.file(name))
    return [name, size, mtimeMs]
  })
}

describe('bad input is one sentence, and changes nothing', () => {
  test.each<readonly [what: string, drive: (file: (name: string) => string) => string, message: RegExp]>([
    [
      'a missing file',
      (file) => `file=${file('none.img')},format=raw`,
      /^block86: Cannot open \S+none\.img: there is no such file; check the name\n$/,
    ],
    [
      'a directory',
      (file) => `file=${file('folder')},format=raw`,
      /^block86: Cannot open \S+folder: it is a directory\b.*\n$/,
    ],
    [
      'an odd size',
      (file) => `file=${file('odd.img')},format=raw`,
      /^block86: Cannot open \S+odd\.img as a raw disk: its size 1000 is no multiple of 512 bytes; .*\n$/,
    ],
    ['an unknown format', (file) => `file=${file('good.img')},format=tar`, /^block86: .*\btar\b.*raw.*\n$/],
    ['no format', (file) => `file=${file('good.img')}`, /^block86: .*format.*\n$/],
    [
      'a format that it is not',
      (file) => `file=${file('good.img')},format=qcow2`,
      /^block86: Cannot open \S+good\.img.*qcow2.*\n$/,
    ],
    [
      'an unknown key',
      (file) => `file=${file('good.img')},format=raw,colour=red`,
      /^block86: -drive: unknown key 'colour'; known are .*\n$/,
    ],
    [
      'a wrong value',
      (file) => `file=${file('good.img')},format=raw,cache=fast`,
      /^block86: -drive: cache is 'fast', must be writeback, .*\n$/,
    ],
    [
      'an unknown interface',
      (file) => `file=${file('good.img')},format=raw,if=floppy`,
      /^block86: -drive: if is 'floppy', must be virtio, ide, scsi\n$/,
    ],
    [
      'a place that the controller does not have',
      (file) => `file=${file('good.img')},format=raw,if=ide,index=7`,
      /^block86: Cannot attach a drive at IDE drive 7: there are 0, 1, 2, 3\n$/,
    ],
    [
      'a serial that a guest could not read',
      (file) => `file=${file('good.img')},format=raw,serial=ä`,
      /^block86: .*serial.*\n$/,
    ],
    [
      'a file that may only be read',
      (file) => `file=${file('read.img')},format=raw`,
      /^block86: Cannot open \S+read\.img for writing: it is read-only here; .*readonly=on.*\n$/,
    ],
  ])('%s', async (what, drive, message) => {
    const program = bios(say(new Program(), 'A'))
    // The good disk comes first: it must be closed again.
    const first = raw('first.img')
    raw('good.img')
    raw('odd.img', 1000)
    mkdirSync(folder.file('folder'))
    chmodSync(first, 0o666)
    chmodSync(raw('read.img'), 0o444)
    chmodSync(folder.path, 0o755)
    const before = contents()
    const drives = ['-drive', `file=${first},format=raw`, '-drive', drive(folder.file)]
    const asNobody = what === 'a file that may only be read'
    const { status, out, err } = await start(['-bios', program, ...drives], { asNobody }).ended
    expect(err).toMatch(message)
    expect([status, out]).toEqual([1, ''])
    expect(contents()).toEqual(before)
  })

  test('the same image a second time, and in a second process: the message names it', async () => {
    const image = raw('disk.img')
    const drive = ['-drive', `file=${image},format=raw`]
    const program = bios(say(new Program(), 'A').spin())
    const twice = await start(['-bios', program, ...drive, ...drive]).ended
    expect(twice.status).toBe(1)
    expect(twice.err).toMatch(/^block86: Cannot open \S+disk\.img.*\n$/)
    const first = start(['-bios', program, ...drive])
    await first.said('A')
    const second = await start(['-bios', program, ...drive]).ended
    expect(second.status).toBe(1)
    expect(second.err).toMatch(/^block86: Cannot open \S+disk\.img.*\n$/)
    first.child.kill('SIGTERM')
    await first.ended
    const third = start(['-bios', program, ...drive])
    await third.said('A')
  })
})

describe('the end', () => {
  test('of a guest that turns the machine off is status 0', async () => {
    expect(await start(['-bios', bios(say(new Program(), 'A'))]).ended).toEqual({ status: 0, out: 'A', err: '' })
  })

  describe.skipIf(lacks('qemu-img', 'qemu-io'))('flushes and closes the disks', () => {
    test.each([
      ['SIGTERM', 143],
      ['SIGINT', 130],
      ['SIGHUP', 129],
      ['power-off', 0],
    ] as const)('%s: status %d', async (how, status) => {
      const image = folder.file('disk.qcow2')
      await runTool('qemu-img', 'create', '-q', '-f', 'qcow2', image, '64M')
      const program = say(writesSector(new Program()), 'W')
      const machine = start([
        '-bios',
        bios(how === 'power-off' ? program : program.spin()),
        '-drive',
        `file=${image},format=qcow2,if=ide`,
      ])
      if (how !== 'power-off') {
        await machine.said('W')
        machine.child.kill(how)
      }
      expect(await machine.ended).toEqual({ status, out: 'W', err: '' })
      await runTool('qemu-img', 'check', '-q', image)
      const read = await runTool(
        'qemu-io',
        '-f',
        'qcow2',
        '-c',
        'read -P 0x5a 0 512',
        '-c',
        'read -P 0 512 4096',
        image,
      )
      expect(read).not.toMatch(/failed/)
    })
  })

  test('with -snapshot leaves the image as it was', async () => {
    const image = raw('disk.img')
    const { status } = await start([
      '-snapshot',
      '-bios',
      bios(say(writesSector(new Program()), 'W')),
      '-drive',
      `file=${image},format=raw,if=ide`,
    ]).ended
    expect(status).toBe(0)
    expect(readFileSync(image).every((byte) => byte === 0)).toBe(true)
  })
})

test('an image of a terabyte is not held in memory, whatever the controller', async () => {
  const drives = await Promise.all(
    (['virtio', 'ide', 'scsi'] as const).map(async (kind) => {
      const file = folder.file(`${kind}.img`)
      await host.createFile(file, 2 ** 40)
      return ['-drive', `file=${file},format=raw,if=${kind}`]
    }),
  )
  const program = bios(say(writesSector(new Program()), 'A').spin())
  const machine = start(['-m', '64', '-bios', program, ...drives.flat()])
  await machine.said('A')
  const peak = Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${machine.child.pid}/status`, 'utf8'))![1]) / 1024
  expect(peak).toBeLessThan(200 + 64)
})
