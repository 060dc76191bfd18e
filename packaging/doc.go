// Package packaging holds what is installed on a host besides the programs:
// units (systemd), examples, the scripts of the packages and the description
// of both formats (nfpm.yaml). Its tests hold these files to what the programs
// need; that they work is for test/package and test/boot. Start with
// systemd/posternd.service.
package packaging
