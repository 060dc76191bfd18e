package mask

const (
	maxLocal   = 64  // RFC 5321, 4.5.3.1.1
	maxDomain  = 253 // RFC 1035
	maxCard    = 19  // ISO/IEC 7812
	minCard    = 13
	minPhone   = 8
	maxPhone   = 15 // E.164
	maxSpacers = 8  // in one number
)

// email looks at an @.
func (c *cursor) email(i int) int {
	start := i
	for start > 0 && i-start < maxLocal && class[c.v[start-1]]&isLocal != 0 {
		start--
	}
	for start < i && !c.is(start, isAlnum) && c.v[start] < 0x80 {
		start++ // punctuation before it
	}
	end := c.domainEnd(i + 1)
	if start == i || end == 0 || start >= 3 && c.hasPrefix(start-3, "://") { // the user of a URL
		return i + 1
	}
	return c.hit(start, end, "email")
}

// domainEnd returns the end of a domain with at least two labels, of which the
// last begins with letters; 0 if there is none.
func (c *cursor) domainEnd(i int) int {
	found := 0
	limit := min(len(c.v), i+maxDomain)
	for first := true; ; first = false {
		j := i
		for j < limit && c.letter(j) {
			j++
		}
		letters := j
		for j < limit && (c.letter(j) || c.is(j, isDigit) || c.v[j] == '-') {
			j++
		}
		if j == i {
			return found
		}
		if !first && letters-i >= 2 && !imageSuffix(c.v[i:letters]) {
			found = letters
		}
		if j >= limit || c.v[j] != '.' {
			return found
		}
		i = j + 1
	}
}

func (c *cursor) letter(i int) bool { return c.is(i, isUpper|isLower) || c.v[i] >= 0x80 }

// imageSuffix is for icon@2x.png.
func imageSuffix(b []byte) bool {
	switch string(b) {
	case "png", "jpg", "jpeg", "gif", "svg", "webp":
		return true
	}
	return false
}

// minBare is how many digits make a number that has nothing else in it.
const minBare = 9

// joins are the bytes behind digits with which a number may go on.
var joins = func() (t [256]bool) {
	for b := range t {
		t[b] = class[b]&isAlnum != 0
	}
	for _, b := range []byte(" -./+)") {
		t[b] = true
	}
	return t
}()

// timestamp passes over dates and times as PostgreSQL writes them, ISO 8601's
// T included: in them no number begins, and they are many.
func (c *cursor) timestamp(i, end int) int {
	if end-i != 4 || c.v[end] != '-' || end+6 > len(c.v) || c.v[end+3] != '-' || c.digitsAt(end+1, 2) < 0 || c.digitsAt(end+4, 2) < 0 {
		return 0
	}
	end += 6
	if end+9 > len(c.v) || c.v[end] != ' ' && c.v[end] != 'T' || c.v[end+3] != ':' || c.v[end+6] != ':' ||
		c.digitsAt(end+1, 2) < 0 || c.digitsAt(end+4, 2) < 0 || c.digitsAt(end+7, 2) < 0 {
		return end
	}
	end += 9
	if end < len(c.v) && c.v[end] == '.' {
		return c.run(end+1, isDigit, 9)
	}
	return end
}

// number looks at the first digit of a row of digits and returns where to go
// on: behind the word, since nothing that is found begins within one.
func (c *cursor) number(i int) int {
	end := c.run(i, isDigit, len(c.v))
	if end-i < minBare && !c.is(i-1, isAlnum) {
		if end == len(c.v) || !joins[c.v[end]] || class[c.v[end]]&isAlnum == 0 && c.v[end] != ')' && !c.is(end+1, isDigit|isUpper) {
			return end
		}
		if stop := c.timestamp(i, end); stop > 0 {
			return stop
		}
	}
	if c.groups&PII != 0 {
		if stop := c.personal(i, end); stop > 0 {
			return stop
		}
	}
	if !c.is(i-1, isAlnum) && !c.is(end, isAlnum) {
		if c.groups&Secrets != 0 && end < len(c.v) && c.v[end] == '|' {
			return c.facebook(i, end)
		}
		return end
	}
	word := c.run(end, isAlnum, len(c.v))
	if c.groups&Secrets != 0 {
		if stop := c.longWord(i, word); stop > 0 {
			return stop
		}
	}
	return word
}

// personal looks at a row of digits, v[i:end].
func (c *cursor) personal(i, end int) int {
	n := end - i
	if c.is(i-1, isAlnum) {
		if !c.is(i-1, isUpper) {
			return 0
		}
		if n >= 2 {
			if stop := c.iban(i); stop > 0 {
				return stop
			}
		}
		return c.lettered(i, end)
	}
	if i > 1 && c.v[i-1] == '.' && c.is(i-2, isDigit) {
		return 0
	}
	if stop := c.national(i, end); stop > 0 {
		return stop
	}
	switch {
	case c.is(end, isAlnum) || n > maxCard:
	case n >= minCard:
		if !(end+1 < len(c.v) && c.v[end] == '.' && c.is(end+1, isDigit)) && cardDigits(c.v[i:end]) {
			return c.hit(i, end, "card")
		}
	case n == 4:
		if c.is(end+1, isDigit) && c.is(end+4, isDigit) { // groups of four or six
			return c.groupedCard(i)
		}
	case end >= len(c.v):
	case n <= 3 && c.v[end] == '.':
		if stop := c.ipv4(i); stop > 0 || n < 3 {
			return stop
		}
		return c.nanp(i)
	case n == 3:
		return c.nanp(i)
	case n == 2:
		return c.spacedNino(i)
	}
	return 0
}

// groupedCard is a card number in groups, all parted by a space or all by a dash.
func (c *cursor) groupedCard(i int) int {
	var digits [maxCard]byte
	n, j, end := 0, i, 0
	var spacer byte
	for groups := 0; groups < maxSpacers; groups++ {
		stop := c.run(j, isDigit, maxCard+1)
		if stop == j || n+stop-j > maxCard {
			break
		}
		n += copy(digits[n:], c.v[j:stop])
		end = stop
		if stop+1 >= len(c.v) || (c.v[stop] != ' ' && c.v[stop] != '-') || (spacer != 0 && c.v[stop] != spacer) {
			break
		}
		spacer = c.v[stop]
		if n >= minCard && !c.is(end, isAlnum) && cardDigits(digits[:n]) {
			return c.hit(i, end, "card")
		}
		j = stop + 1
	}
	if n >= minCard && !c.is(end, isAlnum) && cardDigits(digits[:n]) {
		return c.hit(i, end, "card")
	}
	return 0
}

// cardDigits checks issuer, length and check digit.
func cardDigits(d []byte) bool {
	n := len(d)
	if n < minCard || n > maxCard {
		return false
	}
	two := int(d[0]-'0')*10 + int(d[1]-'0')
	four := two*100 + int(d[2]-'0')*10 + int(d[3]-'0')
	switch {
	case d[0] == '4': // Visa
		if n != 13 && n != 16 && n != 19 {
			return false
		}
	case two >= 51 && two <= 55, four >= 2221 && four <= 2720: // Mastercard
		if n != 16 {
			return false
		}
	case two == 34 || two == 37: // American Express
		if n != 15 {
			return false
		}
	case two == 36 || two == 38 || two == 39 || four >= 3000 && four <= 3059: // Diners Club
		if n != 14 && n != 16 && n != 19 {
			return false
		}
	case four == 6011 || two == 65 || four >= 6440 && four <= 6499, // Discover
		four >= 3528 && four <= 3589, // JCB
		two == 62 || two == 81:       // UnionPay
		if n < 16 {
			return false
		}
	case two == 50 || two >= 56 && two <= 58 || two == 63 || two == 67: // Maestro
	default:
		return false
	}
	return luhn(d)
}

func luhn(d []byte) bool {
	sum := 0
	for i := range d {
		x := int(d[len(d)-1-i] - '0')
		if i%2 == 1 {
			if x *= 2; x > 9 {
				x -= 9
			}
		}
		sum += x
	}
	return sum%10 == 0
}

// digitsAt reads exactly n digits and returns their value, or -1.
func (c *cursor) digitsAt(i, n int) int {
	if i+n > len(c.v) {
		return -1
	}
	value := 0
	for _, b := range c.v[i : i+n] {
		if class[b]&isDigit == 0 {
			return -1
		}
		value = value*10 + int(b-'0')
	}
	return value
}

// nanp is a North American phone number in three groups.
func (c *cursor) nanp(i int) int {
	if i > 0 && (c.v[i-1] == '-' || c.v[i-1] == '.') {
		return 0
	}
	start, j := i, i+3
	if i > 0 && c.v[i-1] == '(' && j < len(c.v) && c.v[j] == ')' {
		start, j = i-1, j+1
		if j < len(c.v) && c.v[j] == ' ' {
			j++
		}
	} else if j = c.spacer(j); j == 0 {
		return 0
	}
	exchange, next := c.digitsAt(j, 3), c.spacer(j+3)
	if c.v[i] < '2' || exchange < 200 || next == 0 || c.digitsAt(next, 4) < 0 || c.is(next+4, isTokenish) {
		return 0
	}
	return c.hit(start, next+4, "phone")
}

// spacer returns what is behind one, or 0.
func (c *cursor) spacer(i int) int {
	if i < len(c.v) && (c.v[i] == '-' || c.v[i] == '.' || c.v[i] == ' ') {
		return i + 1
	}
	return 0
}

// phone looks at the + of an international number.
func (c *cursor) phone(i int) int {
	if c.is(i-1, isTokenish) || !c.is(i+1, isDigit) || c.v[i+1] == '0' {
		return i + 1
	}
	digits, spacers, end := 0, 0, i+1
	for j := i + 1; j < len(c.v) && spacers <= maxSpacers && j <= end+1; j++ { // two spacers in a row at most
		b := c.v[j]
		if class[b]&isDigit != 0 {
			digits++
			end = j + 1
		} else if b == ' ' || b == '-' || b == '.' || b == '(' || b == ')' {
			spacers++
		} else {
			break
		}
	}
	if digits < minPhone || digits > maxPhone || c.is(end, isAlnum) {
		return i + 1
	}
	return c.hit(i, end, "phone")
}
