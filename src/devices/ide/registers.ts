/** Names of the registers and bits that a host sees of an ATA channel and of its bus master. */

// Command block, offsets from 1F0h or 170h [ATA8-APT 6.2]
export const REG_DATA = 0
export const REG_ERROR = 1 // read; Features when written
export const REG_COUNT = 2
export const REG_LBA_LOW = 3
export const REG_LBA_MID = 4
export const REG_LBA_HIGH = 5
export const REG_DEVICE = 6
export const REG_STATUS = 7 // read; Command when written

// Status register [ATA8-ACS 6.2]
export const STATUS_BSY = 1 << 7 // the task file is the device's
export const STATUS_DRDY = 1 << 6 // the device accepts commands
export const STATUS_DF = 1 << 5 // device fault
export const STATUS_DSC = 1 << 4 // seek complete [ATA-3 7.2.13], which old drivers wait for
export const STATUS_DRQ = 1 << 3 // the device is ready to move data
export const STATUS_ERR = 1 << 0 // see the Error register; CHK of a PACKET device

// Error register [ATA8-ACS 6.3]
export const ERROR_ICRC = 1 << 7 // an Ultra DMA burst arrived damaged; no cable here ever does that
export const ERROR_UNC = 1 << 6 // uncorrectable data
export const ERROR_IDNF = 1 << 4 // no such address
export const ERROR_ABRT = 1 << 2 // the command was not done
/** Diagnostic code in the Error register after a reset: passed [ATA8-ACS 7.9, EXECUTE DEVICE DIAGNOSTIC]. */
export const DIAGNOSTIC_PASSED = 0x01

// Device register [ATA8-ACS 6.1.4]
export const DEVICE_LBA = 1 << 6
export const DEVICE_DEV = 1 << 4

// Device Control register, at 3F6h or 376h [ATA8-APT 6.3]
export const CONTROL_NIEN = 1 << 1 // INTRQ is not driven
export const CONTROL_SRST = 1 << 2 // software reset of both devices
export const CONTROL_HOB = 1 << 7 // reads give the previous content of a register that has two bytes

// Interrupt Reason, in the Count register of a PACKET device [ATA/ATAPI-7 6.4]
export const REASON_CD = 1 << 0 // a command packet (or, at the end, the status), not data
export const REASON_IO = 1 << 1 // to the host

// Bus master registers, offsets from BAR 4; the secondary channel's follow at 8 [PIIX3 2.6]
export const BM_COMMAND = 0
export const BM_STATUS = 2
export const BM_TABLE = 4
export const BM_COMMAND_START = 1 << 0
export const BM_COMMAND_TO_MEMORY = 1 << 3
export const BM_STATUS_ACTIVE = 1 << 0
export const BM_STATUS_ERROR = 1 << 1
export const BM_STATUS_INTERRUPT = 1 << 2
export const BM_STATUS_DMA_CAPABLE = 3 << 5 // set by software, for software
