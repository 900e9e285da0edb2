/** `-drive` as QEMU reads it (qemu-options, "Block device options"). */
import { describe, expect, test } from 'vitest'
import { parseDrive } from '../../src/cli/drive-options.ts'

describe('-drive', () => {
  test('gives what opens the disk and what attaches it', () => {
    expect(parseDrive('file=debian.img,format=raw,if=virtio,cache=none,serial=x,bootindex=1')).toEqual({
      file: 'debian.img',
      if: 'virtio',
      media: 'disk',
      bootindex: 1,
      open: { format: 'raw', cache: 'none', serial: 'x' },
    })
  })

  test('takes every key of the disk by its name', () => {
    const text =
      'file=a,format=qcow2,aio=io_uring,discard=on,detect-zeroes=unmap,copy-on-read=on,snapshot=off,readonly=off,' +
      'rerror=stop,werror=report,logical_block_size=4k,physical_block_size=4096,discard_granularity=64k,locking=off'
    expect(parseDrive(text).open).toEqual({
      format: 'qcow2',
      aio: 'io_uring',
      discard: 'unmap',
      detectZeroes: 'unmap',
      copyOnRead: true,
      snapshot: false,
      readOnly: false,
      rerror: 'stop',
      werror: 'report',
      logicalBlockSize: 4096,
      physicalBlockSize: 4096,
      discardGranularity: 65536,
      locking: 'off',
    })
  })

  test('a comma in a value is typed twice', () => {
    expect(parseDrive('file=a,,b,,,,c.img,format=raw').file).toBe('a,b,,c.img')
  })

  test('throttling.* are limits', () => {
    expect(parseDrive('file=a,throttling.bps-total=1M,throttling.iops-read-max=100').open.throttling).toEqual({
      bpsTotal: 1 << 20,
      iopsReadMax: 100,
    })
  })

  test('a CD-ROM drive is on IDE, read-only, raw, and may be empty', () => {
    expect(parseDrive('media=cdrom')).toEqual({
      file: undefined,
      if: 'ide',
      media: 'cdrom',
      open: { readOnly: true, format: 'raw' },
    })
  })

  test('properties of the device are for the interfaces that have them', () => {
    expect(
      parseDrive(
        'file=a,if=scsi,scsi-id=3,lun=1,vendor=V,product=P,ver=1,wwn=0x5000c50000000001,removable=on,rotation_rate=1,' +
          'device_id=x,port_wwn=7,dpofua=off,chip=lsi53c810',
      ).device,
    ).toEqual({
      scsiId: 3,
      lun: 1,
      vendor: 'V',
      product: 'P',
      ver: '1',
      wwn: 0x5000c50000000001n,
      removable: true,
      rotationRate: 1,
      deviceId: 'x',
      portWwn: 7n,
      dpofua: false,
      chip: 'lsi53c810',
    })
    expect(parseDrive('file=a,scsi=on').device).toEqual({ scsi: true })
    expect(() => parseDrive('file=a,if=ide,lun=1')).toThrow('lun is for if=scsi, not if=ide')
    expect(() => parseDrive('file=a,if=scsi,wwn=abc')).toThrow("wwn is 'abc', must be a number of 64 bits")
  })

  test('options of a format go to it', () => {
    expect(parseDrive('file=a,format=raw,offset=1M,size=64k').open).toEqual({
      format: 'raw',
      offset: 1 << 20,
      size: 65536,
    })
  })

  test('a json: name is a tree', () => {
    expect(parseDrive('file=json:{"driver":"null-co"}').file).toEqual({ driver: 'null-co' })
  })

  test.each([
    ['file=a,colour=red', "unknown key 'colour'"],
    ['file=a,__proto__=1', "unknown key '__proto__'"],
    ['file=a,constructor=1', "unknown key 'constructor'"],
    ['file=a,throttling.foo=1', "unknown key 'throttling.foo'"],
    ['file=a,if=floppy', "if is 'floppy', must be virtio, ide, scsi"],
    ['file=a,cache=maybe', "cache is 'maybe', must be writeback, none, writethrough, directsync, unsafe"],
    ['file=a,readonly=perhaps', "readonly is 'perhaps', must be on or off"],
    ['file=a,logical_block_size=big', "logical_block_size is 'big', must be a size"],
    ['file=a,bootindex=-1', "bootindex is '-1', must be a number"],
    ['format=raw', 'no file; say file=NAME'],
    ['debian.img', "Expected '=' after parameter 'debian.img'"],
  ])('%s: %s', (argument, message) => {
    expect(() => parseDrive(argument)).toThrow(message)
  })
})
