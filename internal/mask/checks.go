package mask

// chars are the digits and letters of a number, as many as its form has. Checks
// get them by value: what they are called by does not know which is called, and
// would have to put a slice on the heap.
type chars struct {
	b [maxNational]byte
	n int
}

func (v *chars) list() []byte { return v.b[:v.n] }

func num(d []byte) (n int) {
	for _, b := range d {
		n = n*10 + int(b-'0')
	}
	return n
}

// weighted is the sum of the digits times the weights.
func weighted(d []byte, weights ...int) (sum int) {
	for k, w := range weights {
		sum += int(d[k]-'0') * w
	}
	return sum
}

// date takes days and months as numbers of citizens have them; which February
// has 29 days the two digits of a year do not tell.
func date(day, month int) bool {
	return month >= 1 && month <= 12 && day >= 1 && day <= [...]int{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[month-1]
}

func allSame(d []byte) bool {
	for _, b := range d {
		if b != d[0] {
			return false
		}
	}
	return true
}

// ssnValid leaves out the numbers that are never issued (US Social Security
// Administration, 20 CFR 422.103).
func ssnValid(v chars) bool {
	d := v.list()
	area := num(d[:3])
	return area > 0 && area != 666 && area < 900 && num(d[3:5]) > 0 && num(d[5:]) > 0
}

// steuerID is ISO 7064 MOD 11,10 over ten digits, of which exactly one occurs
// twice or thrice.
func steuerID(v chars) bool {
	d := v.list()
	var counts [10]int
	product := 10
	for _, b := range d[:10] {
		counts[b-'0']++
		sum := (int(b-'0') + product) % 10
		if sum == 0 {
			sum = 10
		}
		product = sum * 2 % 11
	}
	repeated := 0
	for _, n := range counts {
		if n > 3 {
			return false
		}
		if n > 1 {
			repeated++
		}
	}
	return d[0] != '0' && repeated == 1 && (11-product)%10 == int(d[10]-'0')
}

// nir: sex, year, month, place, order, and 97 minus the rest by 97.
func nir(v chars) bool {
	d := v.list()
	month := num(d[3:5])
	return (d[0] == '1' || d[0] == '2') && (month >= 1 && month <= 12 || month >= 20 && month <= 42) && 97-num(d[:13])%97 == num(d[13:])
}

func dni(v chars) bool {
	d := v.list()
	return "TRWAGMYFPDXBNJZSQVHLCKE"[num(d[:8])%23] == d[8]
}

func bsn(v chars) bool {
	d := v.list()
	return num(d) > 0 && weighted(d, 9, 8, 7, 6, 5, 4, 3, 2, -1)%11 == 0
}

// pesel takes the months of the two centuries in which people live.
func pesel(v chars) bool {
	d := v.list()
	month := num(d[2:4])
	if month > 20 {
		month -= 20
	}
	return date(num(d[4:6]), month) && weighted(d, 1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)%10 == 0
}

// rrn: those born since 2000 have a 2 before the nine digits that are checked.
func rrn(v chars) bool {
	d := v.list()
	n, check := num(d[:9]), num(d[9:])
	return date(num(d[4:6]), num(d[2:4])) && (97-n%97 == check || 97-(2_000_000_000+n)%97 == check)
}

func personnummer(v chars) bool { return swedish(v.list()) }

// swedish: coordination numbers have 60 added to the day.
func swedish(d []byte) bool {
	day := num(d[4:6])
	if day > 60 {
		day -= 60
	}
	return date(day, num(d[2:4])) && luhn(d)
}

func personnummer12(v chars) bool {
	d := v.list()
	century := num(d[:2])
	return (century == 19 || century == 20) && swedish(d[2:])
}

// fodselsnummer: D-numbers have 40 added to the day.
func fodselsnummer(v chars) bool {
	d := v.list()
	day := num(d[:2])
	if day > 40 {
		day -= 40
	}
	return date(day, num(d[2:4])) && weighted(d, 3, 7, 6, 1, 8, 9, 4, 5, 2, 1)%11 == 0 && weighted(d, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)%11 == 0
}

// hetu has a letter for the century in the middle in one of its forms.
func hetu(v chars) bool {
	d := v.list()
	if len(d) == 11 {
		if d[6] < 'A' || d[6] > 'F' && d[6] < 'U' || d[6] > 'Y' {
			return false
		}
		d = append(append(make([]byte, 0, 10), d[:6]...), d[7:]...)
	}
	if class[d[6]]&isDigit == 0 || !date(num(d[:2]), num(d[2:4])) || num(d[6:9]) < 2 {
		return false
	}
	return "0123456789ABCDEFHJKLMNPRSTUVWXY"[num(d[:9])%31] == d[9]
}

// cpr: numbers issued since 2007 may fail the check and are not found.
func cpr(v chars) bool {
	d := v.list()
	return date(num(d[:2]), num(d[2:4])) && weighted(d, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)%11 == 0
}

// brazilian is the check digit of CPF and CNPJ.
func brazilian(sum int) byte {
	if sum %= 11; sum < 2 {
		return '0'
	}
	return '0' + byte(11-sum)
}

func cpf(v chars) bool {
	d := v.list()
	return !allSame(d) && brazilian(weighted(d, 10, 9, 8, 7, 6, 5, 4, 3, 2)) == d[9] &&
		brazilian(weighted(d, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2)) == d[10]
}

func cnpj(v chars) bool {
	d := v.list()
	return !allSame(d) && brazilian(weighted(d, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)) == d[12] &&
		brazilian(weighted(d, 6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)) == d[13]
}

// The dihedral group of ten elements, and a permutation of the digits: Verhoeff.
var (
	dihedral = [10][10]byte{
		{0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
		{1, 2, 3, 4, 0, 6, 7, 8, 9, 5},
		{2, 3, 4, 0, 1, 7, 8, 9, 5, 6},
		{3, 4, 0, 1, 2, 8, 9, 5, 6, 7},
		{4, 0, 1, 2, 3, 9, 5, 6, 7, 8},
		{5, 9, 8, 7, 6, 0, 4, 3, 2, 1},
		{6, 5, 9, 8, 7, 1, 0, 4, 3, 2},
		{7, 6, 5, 9, 8, 2, 1, 0, 4, 3},
		{8, 7, 6, 5, 9, 3, 2, 1, 0, 4},
		{9, 8, 7, 6, 5, 4, 3, 2, 1, 0},
	}
	shuffle = [10]byte{1, 5, 7, 6, 2, 8, 3, 0, 9, 4}
)

func verhoeff(d []byte) bool {
	sum := byte(0)
	for k := range d {
		b := d[len(d)-1-k] - '0'
		for range k % 8 {
			b = shuffle[b]
		}
		sum = dihedral[sum][b]
	}
	return sum == 0
}

func aadhaar(v chars) bool {
	d := v.list()
	return d[0] >= '2' && verhoeff(d)
}

// residentID: place, day of birth, order, and ISO 7064 MOD 11-2 (GB 11643).
func residentID(v chars) bool {
	d := v.list()
	century := num(d[6:8])
	if d[0] == '0' || d[0] == '9' || century != 19 && century != 20 || !date(num(d[12:14]), num(d[10:12])) {
		return false
	}
	return "10X98765432"[weighted(d, 7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)%11] == d[17]
}

func sin(v chars) bool {
	d := v.list()
	return d[0] != '0' && d[0] != '8' && luhn(d)
}

func tfn(v chars) bool {
	d := v.list()
	return num(d) > 0 && weighted(d, 1, 4, 3, 7, 5, 8, 6, 9, 10)%11 == 0
}

// ahv is an EAN-13 of the country 756.
func ahv(v chars) bool {
	d := v.list()
	return num(d[:3]) == 756 && weighted(d, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1)%10 == 0
}

// trunk takes a phone number as it is dialled within its country.
func trunk(v chars) bool {
	d := v.list()
	return d[0] == '0' && d[1] != '0' && !allSame(d[1:])
}

// ninoPrefix: HMRC's manual, NIM39110.
func ninoPrefix(a, b byte) bool {
	never := func(b byte) bool { return b == 'D' || b == 'F' || b == 'I' || b == 'Q' || b == 'U' || b == 'V' }
	switch string([]byte{a, b}) {
	case "BG", "GB", "KN", "NK", "NT", "TN", "ZZ":
		return false
	}
	return !never(a) && !never(b) && b != 'O'
}

// codiceFiscale: at uneven places digits and letters have values of their own
// (Decreto ministeriale 23 dicembre 1976).
func codiceFiscale(s []byte) bool {
	const uneven = "\x01\x00\x05\x07\x09\x0d\x0f\x11\x13\x15\x02\x04\x12\x14\x0b\x03\x06\x08\x0c\x0e\x10\x0a\x16\x19\x18\x17"
	for k, b := range s {
		want := uint16(isUpper)
		if k == 6 || k == 7 || k == 9 || k == 10 || k >= 12 && k <= 14 {
			want = isDigit
		}
		if class[b]&want == 0 {
			return false
		}
	}
	day := num(s[9:11])
	if day > 40 {
		day -= 40
	}
	month := 0
	for k, b := range []byte("ABCDEHLMPRST") {
		if b == s[8] {
			month = k + 1
		}
	}
	if !date(day, month) {
		return false
	}
	sum := 0
	for k, b := range s[:15] {
		v := int(b - '0')
		if class[b]&isUpper != 0 {
			v = int(b - 'A')
		}
		if k%2 == 0 {
			v = int(uneven[v])
		}
		sum += v
	}
	return s[15] == 'A'+byte(sum%26)
}
