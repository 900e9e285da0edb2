/** NBD against the real peers: our client to qemu-nbd and nbdkit, qemu-io, nbdinfo and nbdcopy to our server. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { describe, expect, test } from 'vitest'
import { asDevice, type BlockDevice } from '../../src/block/device.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { openDisk } from '../../src/block/open.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { NbdClient, type NbdClientOptions } from '../../src/block/protocols/nbd/client.ts'
import { type NbdServerOptions, serveNbd } from '../../src/block/protocols/nbd/server.ts'
import { dial, SocketStream, tlsClient, tlsServer } from '../../src/block/protocols/node/tcp.ts'
import { eachTest } from '../each.ts'
import { lacks, runTool } from '../tools.ts'

const MiB = 1 << 20

const own = eachTest()

function random(length: number, seed: number): Uint8Array {
  const words = new Uint32Array(length / 4)
  let x = seed
  for (let i = 0; i < words.length; i++) {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    words[i] = x
  }
  return new Uint8Array(words.buffer)
}

async function serve(options: NbdServerOptions): Promise<string> {
  const path = own.folder.file('ours.sock')
  const sockets = new Set<net.Socket>()
  const server = net.createServer((socket) => {
    sockets.add(socket)
    void serveNbd(new SocketStream(socket, 'client'), options)
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  own.ends.push(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return path
}

/** Starts a server that listens on a Unix socket, and waits until it does. */
async function start(program: string, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] })
  own.ends.push(() => child.kill())
  return child
}

async function connect(path: string, exportName = '', options: NbdClientOptions = {}): Promise<NbdClient> {
  for (let tries = 0; ; tries++) {
    try {
      const client = await NbdClient.connect('nbd', () => dial({ path }), { exportName }, options)
      own.ends.push(() => client.close())
      return client
    } catch (error) {
      if (tries === 100) throw error
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}

/** Random writes, zeroes and trims on a device and on a model of it, then both compared. */
async function exercise(device: BlockDevice, operations: number): Promise<Uint8Array> {
  const model = new Uint8Array(device.size)
  await device.write(0, bytesVec(model))
  const choices = new Uint32Array(random(operations * 16, 0x1234_5678).buffer)
  for (let i = 0; i < operations; i++) {
    const at = choices[4 * i]! % device.size
    const length = Math.min(1 + (choices[4 * i + 1]! % 100_000), device.size - at)
    if (choices[4 * i + 2]! % 4 === 0) {
      await device.zero(at, length, { unmap: choices[4 * i + 3]! % 2 === 0 })
      model.fill(0, at, at + length)
    } else {
      const bytes = random(100_000, choices[4 * i + 3]! | 1).subarray(0, length)
      await device.write(at, bytesVec(bytes), { fua: choices[4 * i + 3]! % 8 === 0 })
      model.set(bytes, at)
    }
  }
  const back = new Uint8Array(device.size)
  await device.read(0, bytesVec(back))
  expect(Buffer.compare(back, model)).toBe(0)
  await device.flush()
  return model
}

describe.skipIf(lacks('qemu-nbd', 'qemu-img', 'qemu-io'))('qemu-nbd', () => {
  test('serves our client: every operation, then the file compared', async () => {
    const image = own.folder.file('disk.raw')
    writeFileSync(image, new Uint8Array(8 * MiB))
    await start('qemu-nbd', '-f', 'raw', '-x', 'disk', '-k', own.folder.file('s'), '--discard=unmap', '-t', image)
    const client = await connect(own.folder.file('s'), 'disk')
    const model = await exercise(asDevice(client), 200)
    expect(Buffer.compare(readFileSync(image), model)).toBe(0)
  })

  test('tells our client what is allocated in a qcow2 image', async () => {
    const image = own.folder.file('disk.qcow2')
    await runTool('qemu-img', 'create', '-q', '-f', 'qcow2', image, '4M')
    await runTool('qemu-io', '-f', 'qcow2', '-c', 'write 1M 64k', '-c', 'write -z 2M 64k', image)
    await start('qemu-nbd', '-f', 'qcow2', '-k', own.folder.file('s'), '-t', image)
    const client = await connect(own.folder.file('s'))
    expect(await client.status(0, 4 * MiB)).toEqual({ length: MiB, kind: 'hole' })
    expect(await client.status(MiB, 3 * MiB)).toEqual({ length: 65536, kind: 'data' })
    expect((await client.status(2 * MiB, 65536)).kind).not.toBe('data')
  })

  test('killed and started again is taken up inside reconnectDelay', async () => {
    const image = own.folder.file('disk.raw')
    writeFileSync(image, random(MiB, 7))
    const args = ['-f', 'raw', '-k', own.folder.file('s'), '-t', image]
    const first = await start('qemu-nbd', ...args)
    const client = await connect(own.folder.file('s'), '', { reconnectDelay: 30 })
    first.kill('SIGKILL')
    await new Promise((resolve) => first.on('exit', resolve))
    const target = new Uint8Array(MiB)
    const read = client.read(0, bytesVec(target))
    await start('qemu-nbd', ...args)
    await read
    expect(Buffer.compare(target, random(MiB, 7))).toBe(0)
  })

  test('openDisk opens its URL, and reads what it wrote there', async () => {
    const image = own.folder.file('disk.raw')
    writeFileSync(image, new Uint8Array(MiB))
    await start('qemu-nbd', '-f', 'raw', '-x', 'disk', '-k', own.folder.file('s'), '-t', image)
    const url = `nbd+unix:///disk?socket=${own.folder.file('s')}`
    const disk = await openDisk(url, { format: 'raw', openTimeout: 10, reconnectDelay: 5 })
    await disk.write(4096, bytesVec(random(8192, 11)))
    await disk.flush()
    await disk.close()
    expect(Buffer.compare(readFileSync(image).subarray(4096, 12288), random(8192, 11))).toBe(0)
    await expect(openDisk(url, { format: 'raw', reconnectDelay: 'soon' })).rejects.toThrow(/number of seconds/)
  })

  test('qemu-io and qemu-img compare work against our server', async () => {
    const path = await serve({ exports: [{ name: 'disk', device: asDevice(new Memory(4 * MiB)) }] })
    const uri = `nbd+unix:///disk?socket=${path}`
    const commands = [
      'write -P 0x11 1000 5000',
      'write -z -u 2000 512',
      'discard 65536 65536',
      'write -f -P 7 1M 2M',
      'flush',
    ]
    const said = await runTool(
      'qemu-io',
      '-f',
      'raw',
      ...[...commands, 'read -P 0x11 1000 1000', 'read -P 0 2000 512', 'read -P 7 1M 2M', 'map'].flatMap((command) => [
        '-c',
        command,
      ]),
      uri,
    )
    expect(said).not.toMatch(/failed|error/i)
    const map = JSON.parse(await runTool('qemu-img', 'map', '--output=json', '-f', 'raw', uri)) as {
      data: boolean
      zero: boolean
    }[]
    expect(map.some((extent) => extent.data) && map.some((extent) => extent.zero)).toBe(true)
    await runTool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri, own.folder.file('copy.qcow2'))
    expect(
      await runTool('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', uri, own.folder.file('copy.qcow2')),
    ).toMatch(/identical/)
  })
})

describe.skipIf(lacks('nbdkit'))('nbdkit', () => {
  const kit = (...args: string[]) => start('nbdkit', '-f', '--exit-with-parent', '-U', own.folder.file('s'), ...args)

  test('memory plugin: every operation', async () => {
    await kit('memory', '8M')
    await exercise(asDevice(await connect(own.folder.file('s'))), 200)
  })

  test('blocksize-policy filter: requests are aligned to its minimum and split at its maximum', async () => {
    await kit(
      '--filter=blocksize-policy',
      'memory',
      '8M',
      'blocksize-minimum=4096',
      'blocksize-maximum=65536',
      'blocksize-error-policy=error',
    )
    const client = await connect(own.folder.file('s'))
    expect(client.align).toBe(4096)
    await exercise(asDevice(client), 100)
  })

  test('error filter: its errno reaches the caller, and later requests go well', async () => {
    await kit(
      '--filter=error',
      'memory',
      '1M',
      'error-pread=ENOSPC',
      'error-pread-rate=100%',
      `error-pread-file=${own.folder.file('on')}`,
    )
    const client = await connect(own.folder.file('s'))
    writeFileSync(own.folder.file('on'), '')
    await expect(client.read(0, bytesVec(new Uint8Array(512)))).rejects.toMatchObject({ code: 'ENOSPC' })
    execFileSync('rm', [own.folder.file('on')])
    await client.read(0, bytesVec(new Uint8Array(512)))
  })

  test('delay filter: slow replies come in any order and all arrive', async () => {
    await kit('--filter=delay', 'pattern', '1M', 'rdelay=50ms')
    const client = await connect(own.folder.file('s'))
    const targets = Array.from({ length: 64 }, () => new Uint8Array(512))
    await Promise.all(targets.map((target, i) => client.read(i * 512, bytesVec(target))))
    for (const [i, target] of targets.entries())
      expect(new DataView(target.buffer).getBigUint64(0)).toBe(BigInt(i * 512))
  })

  test('no structured replies, no extents: the simple paths', async () => {
    await kit('--no-sr', '--filter=noextents', 'memory', '8M')
    const client = await connect(own.folder.file('s'))
    expect(await client.status(0, MiB)).toEqual({ length: MiB, kind: 'data' })
    await exercise(asDevice(client), 100)
  })

  test('retry filter over one that fails: what fails there goes well here', async () => {
    const failing = ['error=EIO', 'error-rate=100%', `error-file=${own.folder.file('on')}`]
    await kit('--filter=retry', '--filter=error', 'memory', '8M', ...failing, 'retry-delay=1', 'retry-exponential=no')
    const client = await connect(own.folder.file('s'))
    writeFileSync(own.folder.file('on'), '')
    const written = client.write(0, bytesVec(new Uint8Array(65536).fill(3)))
    setTimeout(() => execFileSync('rm', [own.folder.file('on')]), 100)
    await written
    const back = new Uint8Array(65536)
    await client.read(0, bytesVec(back))
    expect(back.every((byte) => byte === 3)).toBe(true)
  })

  test('oldstyle negotiation: reads and writes (there this server refuses the FUA and the zeroes that it advertises)', async () => {
    await kit('-o', 'memory', '1M')
    const client = await connect(own.folder.file('s'))
    const bytes = random(100_000, 3)
    await client.write(512, bytesVec(bytes))
    const back = new Uint8Array(bytes.length)
    await client.read(512, bytesVec(back))
    expect(Buffer.compare(back, bytes)).toBe(0)
  })

  test('TLS with a pre-shared key, as client and as server', async () => {
    const key = Buffer.from('0123456789abcdef0123456789abcdef', 'hex')
    writeFileSync(own.folder.file('keys.psk'), `alice:${key.toString('hex')}\n`)
    await kit('--tls=require', `--tls-psk=${own.folder.file('keys.psk')}`, 'memory', '1M')
    const startTls = tlsClient({
      pskCallback: () => ({ psk: key, identity: 'alice' }),
      ciphers: 'PSK',
      minVersion: 'TLSv1.2',
      checkServerIdentity: () => undefined,
    })
    for (let tries = 0; ; tries++) {
      try {
        const client = await NbdClient.connect('nbds', () => dial({ path: own.folder.file('s') }), { startTls })
        await exercise(asDevice(client), 20)
        await client.close()
        break
      } catch (error) {
        if (tries === 100 || !/connect/.test(String(error))) throw error
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    }
    await expect(NbdClient.connect('nbd', () => dial({ path: own.folder.file('s') }))).rejects.toMatchObject({
      code: 'EACCES',
    })
    const path = await serve({
      exports: [{ name: '', device: asDevice(new Memory(MiB)) }],
      startTls: tlsServer({ pskCallback: (_, identity) => (identity === 'alice' ? key : null), ciphers: 'PSK' }),
    })
    const info = await runTool(
      'nbdinfo',
      '--json',
      `nbds+unix://alice@/?socket=${path}&tls-psk-file=${own.folder.file('keys.psk')}`,
    )
    expect(JSON.parse(info)).toMatchObject({ TLS: true, exports: [{ 'export-size': MiB }] })
  })
})

describe.skipIf(lacks('nbdinfo', 'nbdcopy', 'nbdsh'))('libnbd', () => {
  test('nbdinfo sees exports, sizes, flags and contexts', async () => {
    const device = asDevice(new Memory(MiB))
    const path = await serve({
      exports: [
        { name: 'one', device, description: 'the first' },
        { name: 'two', device, readOnly: true },
      ],
    })
    const list = JSON.parse(await runTool('nbdinfo', '--list', '--json', `nbd+unix:///?socket=${path}`)) as {
      exports: object[]
    }
    expect(list.exports).toMatchObject([
      {
        'export-name': 'one',
        description: 'the first',
        can_multi_conn: true,
        can_trim: true,
        can_zero: true,
        can_fua: true,
        contexts: ['base:allocation'],
      },
      { 'export-name': 'two', is_read_only: true, can_flush: true, can_df: true },
    ])
  })

  test('nbdcopy copies out of and into our server, over several connections', async () => {
    const bytes = random(16 * MiB, 99)
    bytes.fill(0, 3 * MiB, 7 * MiB)
    const from = await serve({ exports: [{ name: '', device: asDevice(Memory.from(bytes)) }] })
    const copy = own.folder.file('copy.raw')
    await runTool('nbdcopy', '--connections=4', `nbd+unix:///?socket=${from}`, copy)
    expect(Buffer.compare(readFileSync(copy), bytes)).toBe(0)
  })

  test('nbdcopy into our server keeps holes', async () => {
    const bytes = random(16 * MiB, 5)
    bytes.fill(0, 4 * MiB, 12 * MiB)
    writeFileSync(own.folder.file('in.raw'), bytes)
    const memory = new Memory(16 * MiB)
    const to = await serve({ exports: [{ name: '', device: asDevice(memory) }] })
    await runTool('nbdcopy', '--connections=2', '--flush', own.folder.file('in.raw'), `nbd+unix:///?socket=${to}`)
    const back = new Uint8Array(16 * MiB)
    memory.read(0, bytesVec(back))
    expect(Buffer.compare(back, bytes)).toBe(0)
    expect(memory.allocated()).toBe(8 * MiB)
  })

  test('nbdsh: DF, REQ_ONE, FAST_ZERO and refused requests', async () => {
    const path = await serve({ exports: [{ name: '', device: asDevice(new Memory(MiB)) }] })
    const script = [
      'h.add_meta_context("base:allocation")',
      `h.connect_uri("nbd+unix:///?socket=${path}")`,
      'h.pwrite(b"x"*65536, 65536, nbd.CMD_FLAG_FUA)',
      'assert h.pread(65536*2, 0) == b"\\0"*65536 + b"x"*65536',
      'seen=[]',
      'h.pread_structured(65536*2, 0, lambda buf, off, status, err: seen.append(status), nbd.CMD_FLAG_DF)',
      'assert seen == [nbd.READ_DATA], seen',
      'runs=[]',
      'h.block_status(MB, 0, lambda name, off, entries, err: runs.append(entries), nbd.CMD_FLAG_REQ_ONE)',
      'assert runs == [[65536, 3]], runs',
      'h.zero(65536, 65536, nbd.CMD_FLAG_FAST_ZERO)',
      'h.trim(65536, 0)',
      'h.cache(65536, 0)',
      'h.set_strict_mode(0)',
      'try:\n  h.pread(512, MB)\n  raise SystemExit(1)\nexcept nbd.Error as e:\n  assert e.errno == "EINVAL", e.errno',
      'h.shutdown()',
    ]
    await runTool('env', 'PATH=/usr/bin:/bin', 'nbdsh', '-c', 'MB=1048576', ...script.flatMap((line) => ['-c', line]))
  })
})
