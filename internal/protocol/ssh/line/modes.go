package line

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Opcodes of RFC 4254, section 8, that decide what keys mean.
const (
	endOfModes  = 0
	opErase     = 3
	firstOpaque = 160 // from here on nobody knows how long an argument is
)

// off is what a key is set to that there is not, on Linux and on BSD.
var off = []uint32{0, 255}

// characters are those that editing keys may be set to.
var characters = map[byte][]uint32{
	1: {ctrlC}, 2: {ctrlSlash}, opErase: {backspace, ctrlH}, 4: {ctrlU}, 5: {ctrlD},
	6: off, 7: off, // other ends of a line
	8: {ctrlQ}, 9: {0x13}, 10: {ctrlZ}, 11: append([]uint32{0x19}, off...), 12: append([]uint32{0x12}, off...),
	13: {ctrlW}, 14: {ctrlV}, 15: append([]uint32{ctrlO}, off...), 16: off, 17: append([]uint32{0x14}, off...), 18: append([]uint32{ctrlO}, off...),
}

// flags are those that must be as they are on every terminal at which people
// type: else bytes would become others on their way to the shell, or Ctrl-C would
// not take a line away.
var flags = map[byte]bool{
	31: false, // PARMRK
	33: false, // ISTRIP
	34: false, // INLCR
	35: false, // IGNCR
	36: true,  // ICRNL
	37: false, // IUCLC
	50: true,  // ISIG
	51: true,  // ICANON
	52: false, // XCASE
	57: false, // NOFLSH
	59: true,  // IEXTEN
	90: false, // CS7
	91: true,  // CS8
}

// usual reads the modes of a terminal: which key erases, and what is unusual of
// the others.
func usual(modes []byte) (erase byte, odd string) {
	erase = backspace
	for len(modes) > 0 && modes[0] != endOfModes && modes[0] < firstOpaque {
		op := modes[0]
		if len(modes) < 5 {
			return erase, "the settings of the terminal are cut off"
		}
		value := binary.BigEndian.Uint32(modes[1:])
		modes = modes[5:]
		if op == opErase {
			erase = byte(value)
		}
		want, isFlag := flags[op]
		allowed, isCharacter := characters[op]
		if isFlag && (value != 0) != want || isCharacter && !slices.Contains(allowed, value) {
			return erase, fmt.Sprintf("the terminal was asked for with an unusual setting (number %d of RFC 4254 is %d)", op, value)
		}
	}
	return erase, ""
}
