package gateway

import "strings"

// personal reports whether s holds what looks like an e-mail address, plain
// or percent-encoded. It is the first, cheap check of the intake.
func personal(s string) bool {
	for rest := s; ; {
		at := strings.IndexByte(rest, '@')
		if at < 0 {
			break
		}
		if mailbox(rest[:at], rest[at+1:]) {
			return true
		}
		rest = rest[at+1:]
	}
	for rest := s; ; {
		at := strings.Index(rest, "%40")
		if at < 0 {
			return false
		}
		if mailbox(rest[:at], rest[at+3:]) {
			return true
		}
		rest = rest[at+3:]
	}
}

// mailbox reports whether a name ends before and a domain with a dot begins
// after an at sign.
func mailbox(before, after string) bool {
	if before == "" || !nameByte(before[len(before)-1]) {
		return false
	}
	end := 0
	for end < len(after) && nameByte(after[end]) && after[end] != '_' && after[end] != '+' {
		end++
	}
	domain := strings.TrimRight(after[:end], ".-")
	dot := strings.LastIndexByte(domain, '.')
	return dot > 0 && len(domain)-dot > 2 && !strings.ContainsAny(domain[dot+1:], "0123456789")
}

// nameByte reports whether c may stand in the name of a mailbox.
func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_' || c == '+' || c >= 0x80
}
