package wire

// Room is the size of the buffer that c holds now.
func (c *Conn) Room() int { return len(c.buf) }

const (
	SmallBuffer = smallBuffer
	LargeBuffer = largeBuffer
)
