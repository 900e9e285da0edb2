/** The Debian guest over NBD: a v86 from a qemu-nbd export, and QEMU from ours. */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { buildDebianGuest, PARTITION_BYTES } from '../../guests/debian/index.ts'
import { bootGuest } from '../../guests/harness.ts'
import { openDisk } from '../../src/block/open.ts'
import { runNbd } from '../../src/cli/nbd/index.ts'
import { eachTest } from '../each.ts'
import { lacks, runTool } from '../tools.ts'
import { bootQemu } from './qemu.ts'

const own = eachTest()

async function appears(file: string): Promise<void> {
  while (!existsSync(file)) await new Promise((resolve) => setTimeout(resolve, 20))
}

describe.skipIf(lacks('qemu-nbd', 'qemu-img', 'debugfs'))('v86', () => {
  test('boots from a qemu-nbd export and writes to it', async () => {
    const debian = await buildDebianGuest()
    const [socket, overlay] = [own.folder.file('s'), own.folder.file('root.qcow2')]
    await runTool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', debian.disk, '-F', 'raw', overlay)
    const server = spawn('qemu-nbd', ['-t', '-f', 'qcow2', '--discard=unmap', '-x', 'root', '-k', socket, overlay])
    own.ends.push(() => server.kill())
    await appears(socket)
    const disk = await openDisk(`nbd+unix:///root?socket=${socket}`, { format: 'raw', reconnectDelay: 10 })
    const guest = await bootGuest({ guest: debian, drives: [{ if: 'virtio', disk, bootindex: 1 }] })
    own.ends.push(() => guest.close())
    await guest.ready()
    const bytes = 4 << 20
    await guest.must(`head -c ${bytes} /dev/urandom > /root/data && sync && echo 3 > /proc/sys/vm/drop_caches`)
    const sum = await guest.must('sha256sum < /root/data')
    await guest.must('mount -o remount,ro /')
    expect(disk.stats.flushes).toBeGreaterThan(0)
    await guest.close()
    own.ends.pop()
    server.kill()
    await runTool('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', overlay, own.folder.file('root.raw'))
    await runTool(
      'debugfs',
      '-R',
      `dump /root/data ${own.folder.file('data')}`,
      `${own.folder.file('root.raw')}?offset=${PARTITION_BYTES}`,
    )
    expect(
      createHash('sha256')
        .update(readFileSync(own.folder.file('data')))
        .digest('hex'),
    ).toBe(sum.split(' ')[0])
    await runTool('qemu-img', 'check', '-q', '-f', 'qcow2', overlay)
  })
})

describe.skipIf(lacks('qemu-system-i386'))('qemu-system-i386', () => {
  test('boots from a block86 export until its prompt', async () => {
    const debian = await buildDebianGuest()
    const socket = own.folder.file('s')
    let said = ''
    const out = { write: (text: string) => void (said += text) }
    const ended = runNbd(['-s', '-f', 'raw', '-x', 'root', '-k', socket, debian.disk], '0', { out, err: out })
    await appears(socket)
    const guest = await bootQemu(`file=nbd+unix:///root?socket=${socket},format=raw,if=virtio`)
    own.ends.push(() => guest.kill())
    guest.type('echo hello > /root/file && sync && echo "written $((6*7))"')
    await guest.comes(/written 42/)
    guest.kill()
    await ended
    expect(said).toBe('')
  })
})
