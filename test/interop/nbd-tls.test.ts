/** `block86 nbd` and TLS: X.509 and pre-shared keys, both ways with qemu and libnbd. */
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../src/block/iovec.ts'
import { runIo } from '../../src/cli/io/index.ts'
import { openNode } from '../../src/cli/nodes.ts'
import { parseObjects } from '../../src/cli/objects.ts'
import { lacks, runTool } from '../tools.ts'
import { eachServer, run } from './nbd-servers.ts'

const MiB = 1 << 20
const { own, serve, qemuNbd } = eachServer()

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
    const served = ['-f', 'raw', '--object', x509(server, 'server'), '--tls-creds', 'tls0', image]
    const ended = run('-p', String(port), '-e', '0', ...served)
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
    const child = spawn('qemu-nbd', ['-t', '-p', String(reverse), '-b', '127.0.0.1', '-e', '5', ...served])
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
