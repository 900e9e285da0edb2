/** `block86 nbd` beside qemu-nbd: its command line, bitmaps, snapshots, several exports, and itself as a process. */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openNode } from '../../src/cli/nodes.ts'
import { bundledTool, lacks, runTool } from '../tools.ts'
import { appears, eachServer, run } from './nbd-servers.ts'

const MiB = 1 << 20
const { own, serve, qemuNbd, qcow2 } = eachServer()

describe.skipIf(lacks('qemu-nbd', 'qemu-img', 'qemu-io'))('as qemu-nbd', () => {
  test('what is wrong with a command line', async () => {
    const raw = own.folder.file('raw')
    writeFileSync(raw, new Uint8Array(MiB))
    const image = qcow2('image')
    for (const args of [
      [],
      ['nofile'],
      ['-x'],
      ['-e', 'x', raw],
      ['-e', '-1', raw],
      ['--cache=bad', raw],
      ['--aio=bad', raw],
      ['--discard=bad', raw],
      ['--detect-zeroes=bad', raw],
      ['-o', 'x', raw],
      ['-f', 'raw', '-o', '1G', raw],
      ['-f', 'raw', '-k', `${own.folder.path}/nodir/s`, raw],
      ['-f', 'qcow2', '-B', 'none', image],
      ['-f', 'qcow2', '-l', 'none', image],
      ['-f', 'qcow2', '-l', 'snapshot.name=none', image],
      ['-f', 'raw', '-l', 's', raw],
      ['-f', 'raw', '-B', 's', raw],
      ['-f', 'raw', '--tls-creds=x', raw],
      ['--object', 'bad,id=1', raw],
      ['-L', raw],
      ['-L', '-k', `${own.folder.path}/nosocket`],
      ['-n', '--cache=none', raw],
      ['-k', 'relative', raw],
      ['-f', 'raw', '--image-opts', raw],
      ['-f', 'bogus', raw],
      ['-f', 'qcow2', raw],
      ['--bogus'],
      ['--pid-file'],
    ]) {
      const theirs = spawnSync('qemu-nbd', args, { encoding: 'utf8', timeout: 10_000 })
      const expected = theirs.stderr.replace(/^qemu-nbd: /gm, 'block86: ').replaceAll('`qemu-nbd ', '`block86 nbd ')
      expect({ args, ...(await run(...args)) }).toEqual({ args, out: '', err: expected, status: theirs.status })
    }
    expect((await run('-c', '/dev/nbd0', raw)).err).toMatch(
      /^block86: option '--connect' is not supported: .*nbd-client/,
    )
    expect((await run(raw, image)).err).toMatch(/2 files need as many different names/)
    expect((await run('--help')).out).toMatch(/^Usage: block86 nbd /)
  })

  test('-L lists what a server exports', async () => {
    const image = qcow2('image', 'write 0 64k')
    execFileSync('qemu-img', ['bitmap', '--add', image, 'b0'])
    const options = ['-f', 'qcow2', '-r', '-t', '-x', 'disk', '-D', 'a disk', '-A', '-B', 'b0', image]
    const socket = await qemuNbd(...options)
    expect((await run('-L', '-k', socket)).out).toBe(await runTool('qemu-nbd', '-L', '-k', socket))
    const ours = await serve(...options.filter((option) => option !== '-t'))
    const listed = await runTool('qemu-nbd', '-L', '-k', ours.socket)
    expect(listed).toBe((await run('-L', '-k', socket)).out.replace(/flags: .*/, /flags: .*/.exec(listed)![0]))
    expect((await run('-L', '-k', ours.socket)).out).toBe(listed)
    await runTool('nbdinfo', '--size', `nbd+unix:///disk?socket=${ours.socket}`)
    await ours.ended
  })
})

describe.skipIf(lacks('qemu-nbd', 'qemu-img', 'qemu-io', 'nbdinfo', 'nbdcopy'))('qcow2 over NBD', () => {
  test('persistent bitmaps and the depth of the allocation, as qemu-nbd tells them', async () => {
    const base = qcow2('base', 'write 0 1M')
    const image = own.folder.file('over')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', image])
    execFileSync('qemu-img', ['bitmap', '--add', '-g', '32k', image, 'b0'])
    execFileSync('qemu-io', [
      '-f',
      'qcow2',
      '-c',
      'write 64k 64k',
      '-c',
      'write 1M 320k',
      '-c',
      'write 4032k 64k',
      image,
    ])
    execFileSync('qemu-img', ['bitmap', '--add', '--disable', image, 'empty'])
    const options = ['-f', 'qcow2', '-r', '-A', '-B', 'b0', '-B', 'empty', image]
    for (const context of [
      'base:allocation',
      'qemu:allocation-depth',
      'qemu:dirty-bitmap:b0',
      'qemu:dirty-bitmap:empty',
    ]) {
      const ours = await serve(...options)
      const theirs = await qemuNbd(...options)
      const map = (uri: string) => runTool('nbdinfo', `--map=${context}`, uri)
      expect(await map(ours.uri), context).toBe(await map(`nbd+unix:///?socket=${theirs}`))
      await ours.ended
    }
    const ours = await serve(...options)
    const dirty = await openNode(
      `driver=nbd,server.type=unix,server.path=${ours.socket},x-dirty-bitmap=qemu:dirty-bitmap:b0`,
      { readOnly: true },
      true,
    )
    expect((await dirty.status(0, 4 * MiB)).length).toBe(64 << 10)
    await dirty.close()
    await ours.ended
  })

  test('internal snapshots, by name and by ID, read-only', async () => {
    const image = qcow2('image', 'write -P 1 0 1M')
    execFileSync('qemu-img', ['snapshot', '-c', 'first', image])
    execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 2 512k 1M', image])
    execFileSync('qemu-img', ['snapshot', '-c', 'second', image])
    execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 3 0 4M', image])
    for (const [selector, name] of [
      ['first', 'first'],
      ['2', 'second'],
      ['snapshot.name=second', 'second'],
      ['snapshot.id=1', 'first'],
    ] as const) {
      const { uri, ended } = await serve('-f', 'qcow2', '-l', selector, image)
      const copy = own.folder.file('copy')
      await runTool('nbdcopy', uri, copy)
      await ended
      execFileSync('qemu-img', [
        'convert',
        '-l',
        `snapshot.name=${name}`,
        '-f',
        'qcow2',
        '-O',
        'raw',
        image,
        own.folder.file('expected'),
      ])
      expect(readFileSync(copy).equals(readFileSync(own.folder.file('expected'))), selector).toBe(true)
    }
    execFileSync('qemu-img', ['check', '-q', '-f', 'qcow2', image])
  })

  test('-s leaves the image as it was, -o skips its start, --discard=ignore keeps its space', async () => {
    const image = own.folder.file('raw')
    writeFileSync(image, new Uint8Array(4 * MiB).fill(5))
    const io = (uri: string, ...commands: string[]) =>
      runTool('qemu-io', '-f', 'raw', ...commands.flatMap((command) => ['-c', command]), uri)
    const over = await serve('-s', '-f', 'raw', image)
    await io(over.uri, 'write -P 9 0 1M', 'read -P 9 0 1M', 'read -P 5 1M 1M')
    await over.ended
    expect(readFileSync(image).every((byte) => byte === 5)).toBe(true)
    const part = await serve('-f', 'raw', '-o', String(3 * MiB), image)
    await io(part.uri, 'write -P 6 512 512', 'length')
    await part.ended
    expect(
      readFileSync(image)
        .subarray(3 * MiB + 512, 3 * MiB + 1024)
        .every((byte) => byte === 6),
    ).toBe(true)
    const kept = await serve('-f', 'raw', image)
    await io(kept.uri, 'discard 0 1M', 'read -P 5 0 1M')
    await kept.ended
    const punched = await serve('-f', 'raw', '--discard=unmap', image)
    await io(punched.uri, 'discard 0 1M', 'read -P 0 0 1M')
    await punched.ended
    expect(Number(execFileSync('stat', ['-c', '%b', image], { encoding: 'utf8' })) * 512).toBeLessThan(3.5 * MiB)
  })

  test('one client too many waits for its turn', async () => {
    const image = qcow2('image', 'write -P 3 0 64k')
    const { uri, ended } = await serve('-f', 'qcow2', '-e', '1', image)
    const idle = net.connect(uri.split('socket=')[1]!)
    await new Promise((resolve) => idle.once('data', resolve))
    const copied = runTool('nbdcopy', uri, own.folder.file('copy'))
    await new Promise((resolve) => setTimeout(resolve, 50))
    idle.destroy()
    await copied
    await ended
    expect(
      readFileSync(own.folder.file('copy'))
        .subarray(0, 65536)
        .every((byte) => byte === 3),
    ).toBe(true)
  })

  test('several files, each by its name', async () => {
    const one = qcow2('one', 'write -P 1 0 64k')
    const two = qcow2('two', 'write -P 2 0 64k')
    const { socket, ended } = await serve(
      '-e',
      '0',
      '-f',
      'qcow2',
      '-x',
      'a',
      '-x',
      'b',
      '-D',
      'first',
      '-D',
      'second',
      one,
      two,
    )
    const keep = net.connect(socket)
    const list = JSON.parse(await runTool('nbdinfo', '--list', '--json', `nbd+unix:///?socket=${socket}`)) as {
      exports: object[]
    }
    expect(list.exports).toMatchObject([
      { 'export-name': 'a', description: 'first', can_multi_conn: true },
      { 'export-name': 'b', description: 'second' },
    ])
    keep.destroy()
    await runTool('qemu-io', '-f', 'raw', '-c', 'read -P 2 0 64k', `nbd+unix:///b?socket=${socket}`)
    await ended
  })
})

describe.skipIf(lacks('nbdinfo', 'qemu-img'))('as a process', () => {
  let tool: string
  let remove: () => void
  beforeAll(async () => {
    ;({ file: tool, remove } = await bundledTool())
  })
  afterAll(() => remove())

  test('--fork comes back when it listens, --pid-file says who, and the last client ends it', async () => {
    const image = qcow2('image', 'write -P 3 0 64k')
    const [socket, pid] = [own.folder.file('s'), own.folder.file('pid')]
    execFileSync(process.execPath, [tool, 'nbd', '--fork', '--pid-file', pid, '-k', socket, '-f', 'qcow2', image], {
      stdio: 'ignore',
    })
    const server = Number(readFileSync(pid, 'utf8'))
    process.kill(server, 0)
    expect(execFileSync('nbdinfo', ['--size', `nbd+unix:///?socket=${socket}`], { encoding: 'utf8' })).toBe('4194304\n')
    while (existsSync(pid) || existsSync(socket)) await new Promise((resolve) => setTimeout(resolve, 10))
    expect(() =>
      execFileSync(process.execPath, [tool, 'nbd', '--fork', '-f', 'qcow2', 'nofile'], { stdio: 'ignore' }),
    ).toThrow()
  })

  test('a signal flushes and closes the image', async () => {
    const image = qcow2('image')
    const socket = own.folder.file('s')
    const child = spawn(process.execPath, [tool, 'nbd', '-t', '-k', socket, '-f', 'qcow2', image], { stdio: 'inherit' })
    own.ends.push(() => child.kill('SIGKILL'))
    await appears(socket)
    await runTool('qemu-io', '-f', 'raw', '-c', 'write -P 3 0 1M', `nbd+unix:///?socket=${socket}`)
    const exited = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGTERM')
    expect(await exited).toBe(0)
    execFileSync('qemu-img', ['check', '-q', '-f', 'qcow2', image])
    execFileSync('qemu-io', ['-f', 'qcow2', '-r', '-c', 'read -P 3 0 1M', image])
  })

  test('output that nobody reads to its end is no failure', () => {
    const raw = own.folder.file('raw')
    writeFileSync(raw, new Uint8Array(MiB).fill(7))
    const line = `'${process.execPath}' '${tool}' io -r -f raw -c 'read -v 0 1M' '${raw}' | head -1; echo "\${PIPESTATUS[0]}"`
    const { stdout, stderr } = spawnSync('bash', ['-c', line], { encoding: 'utf8' })
    expect([stdout.split('\n')[1], stderr]).toEqual(['0', ''])
  })

  test('break, aio and abort of block86 io end as the signals do', () => {
    const image = qcow2('image')
    const io = (...args: string[]) =>
      spawnSync(process.execPath, [tool, 'io', '-f', 'qcow2', ...args, image], { encoding: 'utf8' })
    expect(io('-c', 'write -P 1 0 64k', '-c', 'flush', '-c', 'abort').signal).toBe('SIGABRT')
    expect(io('-c', 'sigraise 15').signal).toBe('SIGTERM')
    expect(io('-c', 'read -P 1 0 64k')).toMatchObject({ status: 0 })
  })
})
