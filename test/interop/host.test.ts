/** The host side against Linux and QEMU: system calls seen by strace, locks shared with qemu-io, a loop device. */
import { execFile, execFileSync, spawn, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { buildSync } from 'esbuild'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { asDevice } from '../../src/block/device.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { openDisk } from '../../src/block/open.ts'
import { host } from '../../src/block/protocols/node/index.ts'
import { libc, libcReason } from '../../src/block/protocols/node/libc.ts'
import { driverConformance, outcome, readBytes, same, writeBytes } from '../conformance/driver.ts'
import { lacks, temporaryFolder } from '../tools.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())

describe.skipIf(lacks('strace'))('cache modes, as the kernel sees them', () => {
  const script = folder.file('guest.mjs')

  beforeAll(() => {
    const source = folder.file('guest.ts')
    const root = path.resolve(import.meta.dirname, '../..')
    fs.writeFileSync(
      source,
      `import { openDisk } from '${root}/src/block/open.ts'
       import { bytesVec } from '${root}/src/block/iovec.ts'
       const [name, cache, aio, ...more] = process.argv.slice(2)
       const disk = await openDisk(name, { format: 'raw', cache, aio })
       const sector = (value) => bytesVec(new Uint8Array(4096).fill(value))
       if (more.includes('wce-off')) await disk.setWriteCache(false)
       await Promise.all([disk.write(4096, sector(1)), disk.write(65536, sector(2))])
       if (!more.includes('no-flush')) await disk.flush()
       await disk.write(131072, sector(3), { fua: more.includes('fua') })
       if (more.includes('die')) process.kill(process.pid, 'SIGKILL')
       await disk.close()`,
    )
    buildSync({
      entryPoints: [source],
      outfile: script,
      bundle: true,
      platform: 'node',
      format: 'esm',
      external: ['koffi'],
      absWorkingDir: root,
      logLevel: 'error',
      nodePaths: [path.join(root, 'node_modules')],
    })
    fs.symlinkSync(path.join(root, 'node_modules'), folder.file('node_modules'))
  })

  /** What a run does to the image: the flags it is opened with, then writes and syncs in the order of their ends. */
  function trace(cache: string, ...more: string[]): { flags: string; calls: string[] } {
    const image = folder.file(`${cache}.img`)
    const log = folder.file('strace.log')
    fs.writeFileSync(image, Buffer.alloc(1 << 20))
    const calls = 'openat,open,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync'
    // A program that kills itself takes strace with it; what it had done is in the log.
    spawnSync('strace', [
      '-f',
      '-o',
      log,
      '-y',
      '-e',
      `trace=${calls}`,
      process.execPath,
      script,
      image,
      cache,
      'threads',
      ...more,
    ])
    const lines = joinUnfinished(fs.readFileSync(log, 'latin1').split('\n'))
    const opens = lines.filter((line) => /open(at)?\(/.test(line) && line.includes(image))
    const found = lines.filter((line) => line.includes(`${image}>`) && !/open(at)?\(/.test(line) && !/ = -1/.test(line))
    return {
      flags: opens.map((line) => /O_[A-Z|_]+/.exec(line)?.[0] ?? '').join(' '),
      calls: found.map((line) => `${/(\w+)\(/.exec(line)![1]}${/RWF_DSYNC/.test(line) ? '+dsync' : ''}`),
    }
  }

  /** strace prints a call that another thread interrupts in two lines; the call counts where it ended. */
  function joinUnfinished(lines: string[]): string[] {
    const open = new Map<string, string>()
    return lines.flatMap((line) => {
      const pid = line.split(' ')[0]!
      if (line.endsWith('<unfinished ...>')) {
        open.set(pid, line.replace('<unfinished ...>', ''))
        return []
      }
      const resumed = /<\.\.\. \w+ resumed>(.*)/.exec(line)
      return [resumed ? `${open.get(pid) ?? ''}${resumed[1]}` : line]
    })
  }

  const isWrite = (call: string) => call.includes('write')

  test.each(['writeback', 'none'])(
    'cache=%s: a flush is fdatasync after the writes it covers, writes alone are not synced',
    (cache) => {
      const { flags, calls } = trace(cache)
      expect(flags.includes('O_DIRECT')).toBe(cache === 'none')
      expect(flags).not.toMatch(/O_D?SYNC/)
      expect(calls.map((call) => (isWrite(call) ? 'write' : call))).toEqual([
        'write',
        'write',
        'fdatasync',
        'write',
        'fdatasync',
      ])
    },
  )

  test.each(['writethrough', 'directsync'])(
    'cache=%s: every write is followed by a sync before it completes, a flush adds none',
    (cache) => {
      const { flags, calls } = trace(cache)
      expect(flags.includes('O_DIRECT')).toBe(cache === 'directsync')
      const kinds = calls.map((call) => (isWrite(call) ? 'write' : call))
      expect(kinds.slice(0, 2)).toEqual(['write', 'write'])
      expect(kinds.at(-1)).toBe('fdatasync')
      expect(kinds.filter((kind) => kind === 'write').length).toBe(3)
      expect(kinds.lastIndexOf('write')).toBeLessThan(kinds.lastIndexOf('fdatasync'))
      const until = kinds.slice(0, kinds.lastIndexOf('write'))
      expect(until.at(-1)).toBe('fdatasync')
    },
  )

  test('cache=unsafe: nothing is ever synced', () => {
    const { flags, calls } = trace('unsafe', 'fua')
    expect(flags).not.toContain('O_DIRECT')
    expect(calls.filter((call) => !isWrite(call))).toEqual([])
    expect(calls.length).toBe(3)
  })

  test('a forced write with cache=writeback is synced by itself', () => {
    const { calls } = trace('writeback', 'no-flush', 'fua', 'die')
    expect(calls.map((call) => (isWrite(call) ? 'write' : call))).toEqual(['write', 'write', 'write', 'fdatasync'])
  })

  test('the guest turns the write cache off: from then on writes are durable', () => {
    const { calls } = trace('writeback', 'wce-off', 'no-flush', 'die')
    const kinds = calls.map((call) => (isWrite(call) ? 'write' : call))
    expect(kinds.at(-1)).toBe('fdatasync')
    expect(kinds.filter((kind) => kind === 'fdatasync').length).toBeGreaterThanOrEqual(2)
  })
})

describe.skipIf(lacks('strace') || libc() === undefined)('a sandbox', () => {
  const root = path.resolve(import.meta.dirname, '../..')
  const box = temporaryFolder()
  afterAll(() => box.remove())
  const script = box.file('guest.mjs')

  beforeAll(() => {
    const source = box.file('guest.ts')
    fs.writeFileSync(
      source,
      `import { openDisk } from '${root}/src/block/open.ts'
       import { bytesVec } from '${root}/src/block/iovec.ts'
       import { hostCapabilities } from '${root}/src/block/protocols/node/capabilities.ts'
       const right = []
       for (const cache of ['writeback', 'none']) {
         const disk = await openDisk(process.argv[2], { format: 'raw', cache })
         for (let i = 0; i < 20; i++) {
           const bytes = new Uint8Array(4096).fill(i + 1)
           await disk.write(i * 4096, bytesVec(bytes))
           const back = new Uint8Array(4096)
           await disk.read(i * 4096, bytesVec(back))
           right.push(back.every((byte) => byte === i + 1))
         }
         await disk.flush()
         await disk.zero(0, 8192, { unmap: true })
         await disk.close()
       }
       console.log(JSON.stringify({ right: right.every(Boolean), found: await hostCapabilities('${box.path}') }))`,
    )
    buildSync({
      entryPoints: [source],
      outfile: script,
      bundle: true,
      platform: 'node',
      format: 'esm',
      external: ['koffi'],
      absWorkingDir: root,
      logLevel: 'error',
      nodePaths: [path.join(root, 'node_modules')],
    })
    fs.symlinkSync(path.join(root, 'node_modules'), box.file('node_modules'))
  })

  test.each([
    ['io_uring_setup', 'EPERM', 'io_uring'],
    ['io_uring_setup', 'ENOSYS', 'io_uring'],
    ['io_uring_register', 'EACCES', 'io_uring'],
    ['preadv2,pwritev2', 'EOPNOTSUPP', 'immediate reads'],
    ['preadv2,pwritev2', 'EPERM', 'immediate reads'],
    ['mincore', 'EPERM', 'mapped reads'],
    ['fallocate', 'EOPNOTSUPP', 'holes'],
  ])('that answers %s with %s is worked without, and says so', (calls, error, name) => {
    const image = box.file('image')
    const log = box.file('strace.log')
    fs.writeFileSync(image, Buffer.alloc(1 << 20))
    const inject = ['-e', `trace=${calls}`, '-e', `inject=${calls}:error=${error}`]
    const traced = spawnSync('strace', ['-f', '-o', log, ...inject, process.execPath, script, image], {
      encoding: 'utf8',
    })
    expect(traced.stderr).toBe('')
    const { right, found } = JSON.parse(traced.stdout)
    expect(right).toBe(true)
    expect(found.find((one: { name: string }) => one.name === name)).toMatchObject({ used: false })
    const tries = fs
      .readFileSync(log, 'latin1')
      .split('\n')
      .filter((line) => line.includes('INJECTED'))
    expect(tries.length).toBeGreaterThan(0)
    expect(tries.length).toBeLessThan(10)
  })
})

describe.skipIf(lacks('qemu-io') || libc() === undefined)('locks, with QEMU on the other side', () => {
  const image = () => {
    const name = folder.file('locked.img')
    fs.writeFileSync(name, Buffer.alloc(1 << 20))
    return name
  }
  const qemuIo = (name: string, ...args: string[]) =>
    spawnSync('qemu-io', ['-f', 'raw', ...args, '-c', 'read 0 512', name], { encoding: 'utf8' })

  test('a writer here keeps out writers there, and readers that bear no writer', async () => {
    const name = image()
    const disk = await openDisk(name, { format: 'raw' })
    expect(qemuIo(name).stderr).toMatch(/Failed to get "write" lock/)
    await disk.close()
    expect(qemuIo(name).stdout).toMatch(/512 bytes, 1 ops/)
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', name, '1M'])
    const file = asDevice(await host.openFile(name))
    const info = spawnSync('qemu-img', ['info', '-f', 'qcow2', name], { encoding: 'utf8' })
    await file.close()
    expect(info.stderr).toMatch(/Failed to get shared "write" lock/)
  })

  test('readers here share with readers there, and keep writers out', async () => {
    const name = image()
    const disk = await openDisk(name, { format: 'raw', readOnly: true })
    expect(qemuIo(name, '-r').stdout).toMatch(/512 bytes, 1 ops/)
    expect(qemuIo(name).stderr).toMatch(/Failed to get "write" lock/)
    await disk.close()
  })

  test.each([
    ['writes raw', ['-f', 'raw'], 'EBUSY'],
    ['reads qcow2', ['-f', 'qcow2', '-r'], 'none'],
  ])('a qemu-io that %s keeps writers out here', async (_, args, reader) => {
    const name = image()
    if (args.includes('qcow2')) execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', name, '1M'])
    const open = async (readOnly: boolean) => asDevice(await host.openFile(name, { readOnly })).close()
    const qemu = spawn('qemu-io', [...args, name], { stdio: ['pipe', 'pipe', 'ignore'] })
    // Its prompt: the image is open. To look at the lock earlier would be to hold it when qemu-io wants it.
    await new Promise((resolve) => qemu.stdout.once('data', resolve).once('end', resolve))
    expect(await outcome(() => open(false))).toBe('EBUSY')
    expect(await outcome(() => open(true))).toBe(reader)
    qemu.stdin.end('quit\n')
    await new Promise((resolve) => qemu.on('exit', resolve))
    await open(false)
  })
})

const loop = loopDevice()
afterAll(() => loop.free())

/** A loop device over a file in the folder, where this user may have one. */
function loopDevice(): { name?: string; reason: string; free(): void } {
  if (libc() === undefined) return { reason: `the C library is ${libcReason()}`, free() {} }
  const file = folder.file('loop.img')
  fs.writeFileSync(file, '')
  fs.truncateSync(file, 8 << 20)
  const made = spawnSync('losetup', ['-f', '--show', '--sector-size', '512', file], { encoding: 'utf8' })
  if (made.status !== 0) return { reason: `no loop device: ${made.stderr ?? made.error}`, free() {} }
  const name = made.stdout.trim()
  return { name, reason: '', free: () => void spawnSync('losetup', ['-d', name]) }
}

describe.skipIf(loop.name === undefined)('a block device', () => {
  for (const options of [{}, { direct: true }]) {
    driverConformance({
      name: `a loop device ${JSON.stringify(options)}`,
      size: 8 << 20,
      rounds: 100,
      async make() {
        const device = await host.openFile(loop.name!, options)
        await asDevice(device).zero(0, device.size)
        return device
      },
      reopen: () => host.openFile(loop.name!, options),
    })
  }

  test('has the size and sectors that the kernel says', async () => {
    const device = asDevice(await host.openFile(loop.name!, { readOnly: true }))
    const ask = async (what: string) => Number((await promisify(execFile)('blockdev', [what, loop.name!])).stdout)
    expect([device.size, device.requestAlignment, device.name]).toEqual([
      await ask('--getsize64'),
      await ask('--getss'),
      'host_device',
    ])
    expect(await outcome(() => asDevice(device).resize(1 << 20))).toBe('EROFS')
    await device.close()
  })

  test('discards reach the file under the loop device', async () => {
    const device = asDevice(await host.openFile(loop.name!))
    await writeBytes(device, 0, new Uint8Array(4 << 20).fill(1))
    await device.flush()
    const before = fs.statSync(folder.file('loop.img')).blocks
    await device.discard(0, 4 << 20)
    await device.flush()
    expect(fs.statSync(folder.file('loop.img')).blocks).toBeLessThan(before - 4096)
    await device.close()
  })

  test('one that is read-only is refused for writing', async () => {
    execFileSync('blockdev', ['--setro', loop.name!])
    expect(['EROFS', 'EACCES', 'EPERM']).toContain(await outcome(() => host.openFile(loop.name!)))
    await asDevice(await host.openFile(loop.name!, { readOnly: true })).close()
    execFileSync('blockdev', ['--setrw', loop.name!])
  })
})

describe.skipIf(libc() === undefined)('space', () => {
  test('discard punches a hole, status finds it, allocated falls', async () => {
    const name = folder.file('holes.img')
    fs.writeFileSync(name, Buffer.alloc(4 << 20, 7))
    const device = asDevice(await host.openFile(name))
    const before = await device.allocated()
    await device.discard(1 << 20, 2 << 20)
    await device.flush()
    expect((await device.allocated()) + (2 << 20)).toBeLessThanOrEqual(before)
    expect(await device.status(0, 4 << 20)).toEqual({ length: 1 << 20, kind: 'data' })
    expect(await device.status(1 << 20, 3 << 20)).toEqual({ length: 2 << 20, kind: 'hole' })
    same(await readBytes(device, 1 << 20, 2 << 20), new Uint8Array(2 << 20))
    await device.close()
    expect(fs.readFileSync(name)[3 << 20]).toBe(7)
  })

  test('zero keeps the space, zero with unmap gives it back', async () => {
    const name = folder.file('zeroes.img')
    fs.writeFileSync(name, Buffer.alloc(4 << 20, 7))
    const device = asDevice(await host.openFile(name))
    await device.flush()
    const full = await device.allocated()
    await device.zero(0, 1 << 20)
    expect(await device.allocated()).toBe(full)
    await device.zero(1 << 20, 1 << 20, { unmap: true })
    expect(await device.allocated()).toBe(full - (1 << 20))
    same(await readBytes(device, 0, 2 << 20), new Uint8Array(2 << 20))
    await device.close()
  })

  test.each(['falloc', 'full'] as const)('preallocation=%s takes the space at once', async (how) => {
    const name = folder.file(`${how}.img`)
    await host.createFile(name, 1 << 20, how)
    expect([fs.statSync(name).size, fs.statSync(name).blocks >= 2048]).toEqual([1 << 20, true])
    same(fs.readFileSync(name), new Uint8Array(1 << 20))
  })

  test('copyTo copies inside the host', async () => {
    const [from, to] = [folder.file('from.img'), folder.file('to.img')]
    const content = Buffer.alloc(1 << 20)
    for (let i = 0; i < content.length; i++) content[i] = i ^ (i >> 8)
    fs.writeFileSync(from, content)
    await host.createFile(to, 1 << 20)
    const [source, target] = [asDevice(await host.openFile(from)), asDevice(await host.openFile(to))]
    for (let at = 0; at < 1 << 20; ) {
      const copied = await source.copyTo(at, target, at, (1 << 20) - at)
      if (copied === 0) throw new Error('copyTo copied nothing')
      at += copied
    }
    same(fs.readFileSync(to), content)
    await source.close()
    await target.close()
  })

  test('cloneFile shares the space or makes nothing', async () => {
    const [from, to] = [folder.file('original.img'), folder.file('clone.img')]
    fs.writeFileSync(from, Buffer.alloc(65536, 3))
    const cloned = await host.cloneFile(from, to)
    expect(fs.existsSync(to)).toBe(cloned)
    if (cloned) same(fs.readFileSync(to), fs.readFileSync(from))
    fs.writeFileSync(to, 'mine')
    expect(['EEXIST', 'none']).toContain(await outcome(() => host.cloneFile(from, to)))
    expect(fs.readFileSync(to, 'utf8')).toBe('mine')
  })

  test('a file system without O_DIRECT is refused in one sentence', async () => {
    const error = await host.openFile('/sys/kernel/notes', { readOnly: true, direct: true }).catch((reason) => reason)
    expect(error.message).toMatch(/no O_DIRECT; use cache=writeback/)
  })

  test('a terabyte of sparse file attaches at once and its status is one question', async () => {
    const name = folder.file('terabyte.img')
    await host.createFile(name, 2 ** 40)
    const disk = await openDisk(name, { format: 'raw' })
    expect(await disk.status(0, 2 ** 40)).toEqual({ length: 2 ** 40, kind: 'hole', at: 0 })
    await disk.write(2 ** 39, bytesVec(new Uint8Array(4096).fill(1)))
    await disk.close()
    expect(process.memoryUsage().rss).toBeLessThan(400 << 20)
  })
})

const small = smallFileSystem()
afterAll(() => small.free())

/** A file system of 4 MiB, where this user may mount one. */
function smallFileSystem(): { place?: string; free(): void } {
  const place = folder.file('small')
  fs.mkdirSync(place)
  const made = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4M', 'tmpfs', place])
  return made.status === 0 ? { place, free: () => void spawnSync('umount', [place]) } : { free() {} }
}

describe.skipIf(small.place === undefined)('a host that runs out of space', () => {
  for (const aio of ['threads', 'io_uring'] as const) {
    test(`aio=${aio}: ENOSPC holds the write, and resume completes it when there is room`, async () => {
      const ballast = path.join(small.place!, 'ballast')
      fs.writeFileSync(ballast, Buffer.alloc(3 << 20))
      const name = path.join(small.place!, 'image')
      fs.writeFileSync(name, '')
      fs.truncateSync(name, 3 << 20)
      const disk = await openDisk(name, { format: 'raw', aio })
      let stopped: string | undefined
      const stop = new Promise<void>((resolve) => {
        disk.onStop((error) => {
          stopped = error.code
          resolve()
        })
      })
      const write = Promise.resolve(disk.write(0, bytesVec(new Uint8Array(2 << 20).fill(5))))
      await stop
      expect([stopped, disk.held]).toEqual(['ENOSPC', 1])
      fs.unlinkSync(ballast)
      disk.resume()
      await write
      await disk.close()
      same(fs.readFileSync(name).subarray(0, 2 << 20), new Uint8Array(2 << 20).fill(5))
      fs.unlinkSync(name)
    })
  }

  test('werror=report gives the guest ENOSPC', async () => {
    const name = path.join(small.place!, 'full')
    fs.writeFileSync(name, '')
    fs.truncateSync(name, 8 << 20)
    const disk = await openDisk(name, { format: 'raw', werror: 'report' })
    expect(await outcome(() => disk.write(0, bytesVec(new Uint8Array(8 << 20).fill(1))))).toBe('ENOSPC')
    await disk.close()
  })
})
