/** `block86 nbd` with what people put around it: filters, the kernel's client, fio, and servers that die. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../src/block/iovec.ts'
import { runImg } from '../../src/cli/img/index.ts'
import { openNode } from '../../src/cli/nodes.ts'
import { random } from '../random.ts'
import { lacks, runTool } from '../tools.ts'
import { appears, eachServer } from './nbd-servers.ts'

const MiB = 1 << 20
const { own, serve } = eachServer()

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
    let kills = 0
    const write = async (slot: number) => {
      for (let i = 0; i < 60 || kills < 4; i++) {
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
