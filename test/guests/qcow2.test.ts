/** The Debian guest on a qcow2 image that we made: in QEMU, and after that in v86. */
import { describe, expect, test } from 'vitest'
import { buildDebianGuest } from '../../guests/debian/index.ts'
import { bootGuest } from '../../guests/harness.ts'
import { openDisk } from '../../src/block/open.ts'
import { runImg } from '../../src/cli/img/index.ts'
import { eachTest } from '../each.ts'
import { lacks, runTool } from '../tools.ts'
import { bootQemu } from './qemu.ts'

const own = eachTest()

describe.skipIf(lacks('qemu-system-i386', 'qemu-img'))('an image that block86 converted', () => {
  test('boots in QEMU and in v86, which find what the other wrote, and stays sound', async () => {
    const debian = await buildDebianGuest()
    const image = own.folder.file('debian.qcow2')
    let said = ''
    const out = { write: (text: string) => void (said += text) }
    expect(
      await runImg(['convert', '-c', '-f', 'raw', '-O', 'qcow2', debian.disk, image], '0', { out, err: out }),
    ).toBe(0)
    const qemu = await bootQemu(`file=${image},format=qcow2,if=virtio,discard=unmap`)
    own.ends.push(() => qemu.kill())
    qemu.type('echo of QEMU > /root/file && sync && echo "written $((6*7))"')
    await qemu.comes(/written 42/)
    qemu.kill()
    await runTool('qemu-img', 'check', '-q', '-f', 'qcow2', '-r', 'leaks', image)

    const disk = await openDisk(image, { format: 'qcow2' })
    const guest = await bootGuest({ guest: debian, drives: [{ if: 'virtio', disk, bootindex: 1 }] })
    own.ends.push(() => guest.close())
    await guest.ready()
    expect(await guest.must('cat /root/file')).toBe('of QEMU')
    await guest.must('head -c 2000000 /dev/urandom > /root/more && sync && fstrim / && mount -o remount,ro /')
    await guest.close()
    own.ends.pop()
    await runTool('qemu-img', 'check', '-q', '-f', 'qcow2', image)
    expect(said).toBe('')
  })
})
