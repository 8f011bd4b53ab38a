package ingest

import "bytes"

// botMarks are parts of agents, in lower case, that people's browsers do not
// have: crawlers, feed fetchers, link checkers and programming libraries. The
// list is short on purpose: it finds agents that say what they are.
var botMarks = [][]byte{
	[]byte("bot"), []byte("crawl"), []byte("spider"), []byte("slurp"), []byte("monitor"), []byte("archiver"),
	[]byte("feedparser"), []byte("feedburner"), []byte("feedfetcher"), []byte("feedly"), []byte("rss/"), []byte("fetch"),
	[]byte("curl/"), []byte("wget/"), []byte("python"), []byte("java/"), []byte("libwww"), []byte("ruby"), []byte("perl"),
	[]byte("httpclient"), []byte("http-client"), []byte("okhttp"), []byte("go-http"), []byte("headless"),
	[]byte("validator"), []byte("bingpreview"), []byte("web preview"), []byte("facebookexternalhit"), []byte("mediapartners"),
	[]byte("check_http"), []byte("imageproxy"), []byte("flipboardproxy"),
}

// isBot reports whether an agent names itself a program. No agent at all is
// one too.
func isBot(agent []byte) bool {
	if len(agent) == 0 || len(agent) == 1 && agent[0] == '-' {
		return true
	}
	var buf [512]byte
	lower := buf[:min(len(agent), len(buf))]
	for i := range lower {
		c := agent[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	for _, mark := range botMarks {
		if bytes.Contains(lower, mark) {
			return true
		}
	}
	return false
}
