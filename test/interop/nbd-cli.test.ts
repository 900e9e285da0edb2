/** `block86 nbd` beside qemu-nbd, and with the peers that people use: bitmaps, snapshots, TLS, several exports, fio. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { bytesVec } from '../../src/block/iovec.ts'
import { runImg } from '../../src/cli/img/index.ts'
import { runIo } from '../../src/cli/io/index.ts'
import { runNbd } from '../../src/cli/nbd/index.ts'
import { openNode } from '../../src/cli/nodes.ts'
import { parseObjects } from '../../src/cli/objects.ts'
import { eachTest } from '../each.ts'
import { random } from '../random.ts'
import { bundledTool, lacks, runTool } from '../tools.ts'

const MiB = 1 << 20
vi.setConfig({ testTimeout: 90_000 })

const own = eachTest()

async function run(...args: string[]): Promise<{ out: string; err: string; status: number }> {
  let out = ''
  let err = ''
  const status = await runNbd(args, '0', {
    out: { write: (text) => void (out += text) },
    err: { write: (text) => void (err += text) },
  })
  return { out, err, status }
}

/** Serves until the last client leaves, in this process; resolves when the socket is there. */
async function serve(...args: string[]): Promise<{ socket: string; uri: string; ended: Promise<unknown> }> {
  const socket = own.folder.file(`s${own.ends.length}`)
  own.ends.push(() => {})
  const ended = run('-k', socket, ...args).then((ran) => {
    expect(ran).toEqual({ out: '', err: '', status: 0 })
  })
  await Promise.race([
    appears(socket),
    ended.then(() => {
      throw new Error('the server ended before it listened')
    }),
  ])
  return { socket, uri: `nbd+unix:///?socket=${socket}`, ended }
}

async function appears(file: string): Promise<void> {
  const until = Date.now() + 60_000
  while (!existsSync(file)) {
    if (Date.now() > until) throw new Error(`${file} does not come`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** Starts qemu-nbd, and waits until it listens. */
async function qemuNbd(...args: string[]): Promise<string> {
  const socket = own.folder.file(`q${own.ends.length}`)
  const child = spawn('qemu-nbd', ['-k', socket, ...args], { stdio: ['ignore', 'ignore', 'inherit'] })
  own.ends.push(() => child.kill())
  await appears(socket)
  return socket
}

const qcow2 = (name: string, ...commands: string[]) => {
  const file = own.folder.file(name)
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', file, '4M'])
  if (commands.length > 0)
    execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), file])
  return file
}

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

describe.skipIf(lacks('openssl', 'qemu-nbd', 'nbdinfo', 'psktool'))('TLS', () => {
  const ports: number[] = []
  async function freePort(): Promise<number> {
    const server = net.createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as net.AddressInfo
    await new Promise((resolve) => server.close(resolve))
    ports.push(port)
    return port
  }

  async function listens(port: number): Promise<void> {
    for (;;) {
      const open = await new Promise<boolean>((resolve) => {
        const socket = net.connect(port, '127.0.0.1')
        socket.on('connect', () => resolve(true))
        socket.on('error', () => resolve(false))
        socket.on('connect', () => socket.destroy())
      })
      if (open) return
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  /** A CA, a server and a client that it signed, and a client that another signed. */
  function certificates(): { server: string; client: string; stranger: string } {
    const ssl = (cwd: string, ...args: string[]) => execFileSync('openssl', args, { cwd, stdio: 'pipe' })
    const key = ['-newkey', 'rsa:2048', '-nodes']
    const authority = (name: string) => {
      const place = own.folder.file(name)
      mkdirSync(place)
      const usage = ['-addext', 'keyUsage=critical,keyCertSign,cRLSign']
      ssl(
        place,
        'req',
        '-x509',
        ...key,
        '-keyout',
        'ca-key.pem',
        '-out',
        'ca-cert.pem',
        '-subj',
        `/CN=${name}`,
        '-days',
        '2',
        ...usage,
      )
      return place
    }
    const signed = (ca: string, name: string, kind: 'server' | 'client') => {
      const place = own.folder.file(name)
      mkdirSync(place)
      writeFileSync(
        `${place}/ext`,
        `subjectAltName=DNS:localhost,IP:127.0.0.1\nkeyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=${kind}Auth\nbasicConstraints=critical,CA:FALSE\n`,
      )
      ssl(
        place,
        'req',
        ...key,
        '-keyout',
        `${kind}-key.pem`,
        '-out',
        'csr',
        '-subj',
        `/CN=${kind === 'server' ? 'localhost' : 'alice'}`,
      )
      ssl(
        place,
        'x509',
        '-req',
        '-in',
        'csr',
        '-CA',
        `${ca}/ca-cert.pem`,
        '-CAkey',
        `${ca}/ca-key.pem`,
        '-CAcreateserial',
        '-days',
        '2',
        '-extfile',
        'ext',
        '-out',
        `${kind}-cert.pem`,
      )
      writeFileSync(`${place}/ca-cert.pem`, readFileSync(`${own.folder.file('ca')}/ca-cert.pem`))
      return place
    }
    const [ca, other] = [authority('ca'), authority('other')]
    return {
      server: signed(ca, 'server', 'server'),
      client: signed(ca, 'client', 'client'),
      stranger: signed(other, 'stranger', 'client'),
    }
  }

  async function io(
    node: string,
    object: string,
    ...commands: string[]
  ): Promise<{ out: string; err: string; status: number }> {
    let out = ''
    let err = ''
    const args = ['--object', object, ...commands.flatMap((command) => ['-c', command]), '--image-opts', node]
    const console = {
      out: { write: (text: string) => void (out += text) },
      err: { write: (text: string) => void (err += text) },
    }
    const status = await runIo(args, '0', { ...console, input: process.stdin })
    return { out, err, status }
  }

  test('X.509: who has no certificate of the CA is kept out, both ways with qemu and libnbd', async () => {
    const { server, client, stranger } = certificates()
    const image = own.folder.file('raw')
    writeFileSync(image, new Uint8Array(MiB).fill(7))
    const x509 = (dir: string, endpoint: string) =>
      `tls-creds-x509,id=tls0,dir=${dir},endpoint=${endpoint},verify-peer=yes`
    const port = await freePort()
    const ended = run(
      '-p',
      String(port),
      '-e',
      '0',
      '-f',
      'raw',
      '--object',
      x509(server, 'server'),
      '--tls-creds',
      'tls0',
      image,
    )
    await listens(port)
    const node = `driver=nbd,host=localhost,port=${port},tls-creds=tls0`
    const theirs = (dir: string) =>
      runTool('qemu-io', '--object', x509(dir, 'client'), '-c', 'read -P 7 0 1M', '--image-opts', node)
    await expect(theirs(stranger)).rejects.toThrow()
    await expect(runTool('nbdinfo', `nbd://localhost:${port}`)).rejects.toThrow()
    const list = ['-L', '-b', 'localhost', '-p', String(port), '--tls-creds', 'tls0']
    expect((await run(...list, '--object', x509(client, 'client'))).out).toMatch(/size:\s+1048576/)
    expect((await run(...list, '--object', x509(stranger, 'client'))).status).toBe(1)
    const keep = await openNode(node, { readOnly: true, objects: parseObjects([x509(client, 'client')]) }, true)
    await expect(
      openNode(node, { readOnly: true, objects: parseObjects([x509(stranger, 'client')]) }, true),
    ).rejects.toThrow()
    expect(await theirs(client)).toMatch(/read 1048576\/1048576/)
    expect(
      JSON.parse(await runTool('nbdinfo', '--json', `nbds://localhost:${port}/?tls-certificates=${client}`)),
    ).toMatchObject({ TLS: true })
    await keep.read(0, bytesVec(new Uint8Array(512)))
    await keep.close()
    expect(await ended).toMatchObject({ status: 0 })

    const [reverse, mismatch] = [await freePort(), 'tls-hostname=elsewhere']
    const child = spawn('qemu-nbd', [
      '-t',
      '-p',
      String(reverse),
      '-b',
      '127.0.0.1',
      '-e',
      '5',
      '-f',
      'raw',
      '--object',
      x509(server, 'server'),
      '--tls-creds',
      'tls0',
      image,
    ])
    own.ends.push(() => child.kill())
    await listens(reverse)
    const back = `driver=nbd,host=localhost,port=${reverse},tls-creds=tls0`
    expect(await io(back, x509(client, 'client'), 'write -P 8 0 4k', 'read -P 7 4k 4k', 'flush')).toMatchObject({
      err: '',
      status: 0,
    })
    expect((await io(back, x509(stranger, 'client'), 'length')).status).toBe(1)
    expect((await io(`${back},${mismatch}`, x509(client, 'client'), 'length')).err).toMatch(/can't open: .*elsewhere/)
    expect(readFileSync(image)[4095]).toBe(8)
  }, 60_000)

  test('pre-shared keys, both ways with qemu', async () => {
    execFileSync('psktool', ['-u', 'alice', '-p', own.folder.file('keys.psk')], { stdio: 'ignore' })
    const image = own.folder.file('raw')
    writeFileSync(image, new Uint8Array(MiB).fill(7))
    const psk = (endpoint: string) =>
      `tls-creds-psk,id=tls0,dir=${own.folder.path},endpoint=${endpoint}${endpoint === 'client' ? ',username=alice' : ''}`
    const ours = await serve('-f', 'raw', '--object', psk('server'), '--tls-creds', 'tls0', image)
    const node = (socket: string) => `driver=nbd,server.type=unix,server.path=${socket},tls-creds=tls0`
    const said = await runTool(
      'qemu-io',
      '--object',
      psk('client'),
      '-c',
      'read -P 7 0 1M',
      '-c',
      'write -P 9 0 512',
      '--image-opts',
      node(ours.socket),
    )
    expect(said).toMatch(/wrote 512/)
    await ours.ended
    const theirs = await qemuNbd('-t', '-f', 'raw', '--object', psk('server'), '--tls-creds', 'tls0', image)
    expect(await io(node(theirs), psk('client'), 'read -P 9 0 512', 'write -P 4 512 512')).toMatchObject({
      err: '',
      status: 0,
    })
    expect((await io(`driver=nbd,path=${theirs}`, psk('client'), 'length')).err).toMatch(/TLS/)
  })
})

describe.skipIf(lacks('qemu-io', 'qemu-img'))('filters', () => {
  const nodes = (raw: string) => [
    ['-f', 'raw', `blkdebug:${own.folder.file('rules')}:${raw}`],
    ['--image-opts', `driver=blkdebug,config=${own.folder.file('rules')},image.driver=file,image.filename=${raw}`],
    [`json:{"driver":"blkdebug","config":"${own.folder.file('rules')}","image":{"driver":"file","filename":"${raw}"}}`],
  ]

  test('fail what is served, and what is copied', async () => {
    const raw = own.folder.file('raw')
    writeFileSync(raw, new Uint8Array(MiB).fill(3))
    writeFileSync(
      own.folder.file('rules'),
      '[inject-error]\nevent = "none"\niotype = "read"\nerrno = "28"\nsector = "8"\n',
    )
    for (const node of nodes(raw)) {
      const { uri, ended } = await serve('-r', ...node)
      const commands = ['-c', 'read -P 3 0 4k', '-c', 'read 4k 4k', '-c', 'read -P 3 8k 4k']
      const said = spawn('qemu-io', ['-r', '-f', 'raw', ...commands, uri])
      let out = ''
      said.stdout.on('data', (piece: Buffer) => (out += piece))
      expect(await new Promise((resolve) => said.on('close', resolve))).toBe(1)
      expect(out.match(/^read .*/gm)).toEqual([
        'read 4096/4096 bytes at offset 0',
        'read failed: No space left on device',
        'read 4096/4096 bytes at offset 8192',
      ])
      await ended
      let err = ''
      const console = { out: { write: () => {} }, err: { write: (text: string) => void (err += text) } }
      const image = node.at(-1)!
      const options = node.slice(0, -1)
      const target = own.folder.file('copy')
      expect(await runImg(['convert', ...options, '-O', 'raw', image, target], '0', console)).toBe(1)
      const theirs = spawnSync('qemu-img', ['convert', ...options, '-O', 'raw', image, target], { encoding: 'utf8' })
      expect(err).toBe(theirs.stderr.replace('qemu-img:', 'block86:'))
    }
  })

  test('throttle, blklogwrites, copy-on-read and null-co serve', async () => {
    const base = own.folder.file('base')
    writeFileSync(base, new Uint8Array(4 * MiB).fill(3))
    const image = own.folder.file('image')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', image])
    writeFileSync(own.folder.file('log'), '')
    const group = ['--object', 'throttle-group,id=tg,limits.iops-total=10000']
    const over = `file.driver=qcow2,file.file.driver=file,file.file.filename=${image}`
    for (const node of [
      [...group, '--image-opts', `driver=throttle,throttle-group=tg,${over}`],
      ['--image-opts', `driver=blklogwrites,log.driver=file,log.filename=${own.folder.file('log')},${over}`],
      ['--image-opts', `driver=copy-on-read,${over}`],
    ]) {
      const { uri, ended } = await serve(...node)
      const said = await runTool(
        'qemu-io',
        '-f',
        'raw',
        '-c',
        'read -P 3 1M 64k',
        '-c',
        'write -P 5 0 4k',
        '-c',
        'flush',
        uri,
      )
      expect(said).toMatch(/wrote 4096/)
      await ended
    }
    const { uri, ended } = await serve('null-co://')
    expect(await runTool('nbdinfo', '--size', uri)).toBe(`${1 << 30}\n`)
    await ended
    const map = await runTool('qemu-img', 'map', '-f', 'qcow2', image)
    expect(map.split('\n').some((line) => line.endsWith(image) && line.startsWith('0x100000'))).toBe(true)
  })
})

describe.skipIf(lacks('nbd-client'))('nbd-client', () => {
  test('lists exports and negotiates; where the kernel has no nbd driver that is all', async () => {
    const image = own.folder.file('raw')
    writeFileSync(image, new Uint8Array(MiB))
    const { socket, ended } = await serve('-e', '0', '-f', 'raw', '-x', 'disk', image)
    expect(await runTool('nbd-client', '-l', '-u', socket)).toMatch(/^disk$/m)
    const connect = ['-u', socket, '-N', 'disk', '/dev/nbd0']
    if (!existsSync('/dev/nbd0')) {
      await expect(runTool('nbd-client', ...connect)).rejects.toThrow(/netlink|nbd0/)
    } else {
      await runTool('nbd-client', ...connect)
      expect(execFileSync('head', ['-c', '512', '/dev/nbd0']).length).toBe(512)
      await runTool('nbd-client', '-d', '/dev/nbd0')
    }
    await ended
  })
})

describe.skipIf(lacks('fio'))('fio', () => {
  test('verifies what it wrote through our server, 16 requests deep', async () => {
    const image = own.folder.file('raw')
    writeFileSync(image, new Uint8Array(16 * MiB))
    const { uri, ended } = await serve('-e', '0', '-f', 'raw', '--discard=unmap', image)
    // fio comes twice, and between that nobody else would be there.
    const keep = await openNode(uri, { format: 'raw' })
    const job = [
      '--name=v',
      '--ioengine=nbd',
      `--uri=${uri}`,
      '--rw=randrw',
      '--bsrange=512-64k',
      '--iodepth=16',
      '--size=16M',
    ]
    const said = await runTool(
      'fio',
      ...job,
      '--verify=crc32c',
      '--verify_fatal=1',
      '--verify_state_save=0',
      '--randseed=86',
      '--randrepeat=1',
    )
    expect(said).toMatch(/err= 0/)
    await keep.close()
    await ended
  })
})

describe.skipIf(lacks('qemu-nbd', 'qemu-img'))('a server that dies again and again', () => {
  test('loses no request inside reconnect-delay', async () => {
    const image = own.folder.file('raw')
    writeFileSync(image, new Uint8Array(8 * MiB))
    const socket = own.folder.file('s')
    let child: ChildProcess | undefined
    const start = async () => {
      child = spawn('qemu-nbd', ['-t', '-f', 'raw', '-k', socket, '-e', '0', image], { stdio: 'ignore' })
    }
    const stop = () =>
      new Promise<void>((resolve) => {
        child!.once('exit', () => resolve())
        child!.kill('SIGKILL')
      })
    own.ends.push(() => child?.kill())
    await start()
    await appears(socket)
    const device = await openNode(`driver=nbd,path=${socket},reconnect-delay=60,open-timeout=10`, {}, true)
    const model = new Uint8Array(8 * MiB)
    const { below } = random(86)
    const write = async (slot: number) => {
      for (let i = 0; i < 60; i++) {
        const at = slot * MiB + below(MiB - 70_000)
        const bytes = new Uint8Array(1 + below(70_000)).fill(1 + below(255))
        model.set(bytes, at)
        await device.write(at, bytesVec(bytes), { fua: below(8) === 0 })
        if (below(4) === 0) {
          const back = new Uint8Array(bytes.length)
          await device.read(at, bytesVec(back))
          expect(Buffer.compare(back, bytes)).toBe(0)
        }
        if (below(10) === 0) await device.flush()
      }
    }
    let done = false
    const work = Promise.all(Array.from({ length: 8 }, (_, slot) => write(slot))).then(() => (done = true))
    let kills = 0
    while (!done && kills < 12) {
      await new Promise((resolve) => setTimeout(resolve, below(60)))
      await stop()
      kills++
      await start()
    }
    await work
    await device.flush()
    await device.close()
    expect(kills).toBeGreaterThan(3)
    expect(Buffer.compare(readFileSync(image), model)).toBe(0)
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
