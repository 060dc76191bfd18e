// Package archtest holds the rules of the tree as tests: who may import whom
// (imports_test.go), what every package and protocol folder has, how long
// files and functions may be, what documents may claim, and what is linked
// into each binary. It has no code of its own.
//
// A rule that stands in the way is changed here, in a commit that says why.
package archtest
