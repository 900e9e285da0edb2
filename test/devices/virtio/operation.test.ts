/** virtio 1.2, 5.2.6: what a block device does, on every face and ring. */
import { describe, expect, test } from 'vitest'
import { Driver, FACES, OK, pattern, T } from './driver.ts'

describe.each(FACES)('5.2.6 Device operation, $name', (face) => {
  test('VIRTIO_BLK_T_OUT writes and VIRTIO_BLK_T_IN reads sectors', () => {
    const driver = new Driver(face)
    const bytes = pattern(4096)
    expect(driver.write(8, bytes)).toMatchObject({ status: OK })
    expect(driver.read(8, 4096)).toEqual({ status: OK, length: 4097, data: bytes })
    expect(driver.isr()).toBe(1)
  })

  test('VIRTIO_BLK_T_GET_ID', () => {
    const driver = new Driver({ ...face, disk: { serial: 'root' } })
    const answer = driver.send(driver.build(T.GET_ID, 0, { input: 20 }))
    expect(answer.length).toBe(21)
    expect(new TextDecoder().decode(answer.data)).toBe('root'.padEnd(20, '\0'))
  })
})
