package httphdr

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Personal reports whether a request field, by its canonical name, is its client's own
// (contract 7.4): a check neither compares nor carries it. That is what is for one hop,
// what is about the client's copy or its patience, what describes the client, and what
// names its address or one exchange.
//
// Credentials are never among them, nor what says how the site was asked for
// (X-Forwarded-Proto, -Host, -Port). Prefer is not either: see WithoutWait.
func Personal(name string) bool {
	if _, ok := personal[name]; ok {
		return true
	}
	if name == "" || name[0] < 'A' || name[0] > 'Z' {
		return false
	}
	for _, prefix := range prefixesOf[name[0]-'A'] { // it is asked of every field of every poll
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// personalPrefixes are what the names of whole families of fields begin with.
var personalPrefixes = []string{
	"L5d-Ctx-", "Ot-Baggage-", "Ot-Tracer-", "Sec-", "Uberctx-",
	"X-B3-", "X-Datadog-", "X-Dynatrace-", "X-Instana-", "X-Newrelic-", "X-Ot-",
}

// prefixesOf are the same by their first letter.
var prefixesOf = func() (prefixes ['Z' - 'A' + 1][]string) {
	for _, prefix := range personalPrefixes {
		prefixes[prefix[0]-'A'] = append(prefixes[prefix[0]-'A'], prefix)
	}
	return prefixes
}()

// PersonalFields are the names that Personal knows, sorted, for the manual. One that
// ends with an asterisk stands for all that begin so.
func PersonalFields() []string {
	names := slices.Collect(maps.Keys(personal))
	for _, prefix := range personalPrefixes {
		names = append(names, prefix+"*")
	}
	slices.Sort(names)
	return names
}

// personal has the fields of Personal that are known by their whole names.
var personal = func() map[string]struct{} {
	m := make(map[string]struct{})
	for _, names := range [][]string{hopByHop, ofCopy, ofClient, ofAddress, ofExchange} {
		for _, name := range names {
			m[http.CanonicalHeaderKey(name)] = struct{}{}
		}
	}
	return m
}()

// ofCopy are about what the client has already, and how it wants to be told.
var ofCopy = []string{
	"If-None-Match", "If-Modified-Since", "If-Range", "If-Match", "If-Unmodified-Since",
	"Wait", "Range", "A-IM", "Cache-Control", "Pragma", "Last-Event-ID", "Expect", "Date",
}

// ofClient describe the program, the page or the person that asks, and its way to us.
var ofClient = []string{
	"User-Agent", "Referer", "From", "Via", "Priority", "DNT", "Save-Data", "Early-Data",
	"Upgrade-Insecure-Requests", "Max-Forwards", "X-Forwarded-Server",
	// Fingerprints that an edge makes of the client's handshake.
	"Cf-Ja3-Hash", "Cf-Ja4", "CloudFront-Viewer-Header-Count", "CloudFront-Viewer-Header-Order",
	"CloudFront-Viewer-JA3-Fingerprint", "CloudFront-Viewer-JA4-Fingerprint", "CloudFront-Viewer-TLS",
	"X-Azure-JA4-Fingerprint", "X-Vercel-JA4-Digest",
}

// ofAddress name the client's address, or a place that is found by it and is about as
// telling. The country, the region and the time zone are compared: many clients share one,
// and what a backend says may well depend on them. X-Forwarded-Client-Cert is a
// credential.
var ofAddress = []string{
	"Forwarded", "Forwarded-For", "Forwarded-For-IP", "X-Forwarded", "X-Forwarded-For", "X-Forwarded-For-Original",
	"X-Forwarded-By", "X-Forwarded-Client-IP", "X-Forwarded-IP", "X-Original-For", "X-Original-Forwarded-For",
	"X-Original-Remote-Addr", "X-ProxyUser-IP", "X-Originating-IP", "Client-IP", "Clientip", "Proxy-Client-IP",
	"Real-IP", "Remote-Addr", "Remote-IP", "Source-IP", "True-Client-IP", "X-True-Client-IP", "True-IP",
	"X-Client-IP", "X-Client-IPv6", "X-Client-Port", "X-Client-Address", "X-Cluster-Client-IP",
	"X-Real-IP", "X-Real-Port", "X-Remote-Addr", "X-Remote-Address", "X-Remote-IP", "X-Remote-Host", "X-Remote-Port",
	"X-Source-IP", "X-User-IP", "X-Viewer-IP", "X-Connecting-IP", "X-End-User-IP", "X-Caller-IP", "X-Peer-Address",
	// Of products that stand in front.
	"Ali-CDN-Real-IP", "Akamai-Edgescape", "X-Akamai-Edgescape", "X-Akamai-Client-IP", "Cdn-Real-IP", "Cdn-Src-IP",
	"CF-Connecting-IP", "CF-Connecting-IPv6", "CF-Pseudo-IPv4", "CF-IPCity", "CF-IPLatitude",
	"CF-IPLongitude", "CF-Postal-Code", "CF-Metro-Code",
	"CloudFront-Viewer-Address", "CloudFront-Viewer-ASN", "CloudFront-Viewer-City", "CloudFront-Viewer-Latitude",
	"CloudFront-Viewer-Longitude", "CloudFront-Viewer-Metro-Code", "CloudFront-Viewer-Postal-Code",
	"DO-Connecting-IP", "EO-Client-IP", "EO-Connecting-IP", "Fastly-Client-IP", "Fastly-Temp-XFF",
	"Fly-Client-IP", "Incap-Client-IP", "NS-Client-IP", "X-NS-Client-IP", "WL-Proxy-Client-IP",
	"X-AppEngine-User-IP", "X-AppEngine-Remote-Addr", "X-AppEngine-City", "X-AppEngine-CityLatLong",
	"X-Azure-ClientIP", "X-Azure-SocketIP", "X-FD-ClientIP", "X-FD-SocketIP", "X-Client-Geo-Location",
	"X-Envoy-External-Address", "X-Envoy-Downstream-Remote-Address", "X-Envoy-Peer-Metadata", "X-Envoy-Peer-Metadata-Id",
	"X-NF-Client-Connection-IP", "X-NF-Geo", "X-Sucuri-ClientIP",
	"X-Vercel-Forwarded-For", "X-Vercel-Proxied-For", "X-Vercel-IP-AS-Number", "X-Vercel-IP-City", "X-Vercel-IP-Latitude",
	"X-Vercel-IP-Longitude", "X-Vercel-IP-Postal-Code",
}

// ofExchange name one exchange, or a step on its way: identifiers, traces, times,
// attempts.
var ofExchange = []string{
	"Traceparent", "Tracestate", "Baggage", "B3", "Trace-Id", "X-Trace-Id", "X-Traceid", "X-Span-Id", "Correlation-Context",
	"Request-Id", "X-Request-Id", "X-Requestid", "X-Req-Id", "X-Request-UUID",
	"Correlation-Id", "X-Correlation-Id", "X-Correlationid", "Client-Request-Id", "X-Client-Request-Id", "X-Client-Trace-Id",
	"X-Request-Start", "X-Queue-Start",
	// Of tracers.
	"ADRUM", "SingularityHeader", "Elastic-Apm-Traceparent", "Grpc-Trace-Bin", "Grpc-Tags-Bin", "Jaeger-Baggage", "Jaeger-Debug-Id",
	"Newrelic", "Sentry-Trace", "SW6", "SW8", "SW8-Correlation", "SW8-X", "Uber-Trace-Id", "X-Cloud-Trace-Context", "X-Dynatrace",
	// Of products that stand in front, and of clients' libraries.
	"AMZ-SDK-Invocation-Id", "AMZ-SDK-Request", "CDN-Loop", "CDN-Requestid", "CF-EW-Via", "CF-Ray", "CF-Request-Id",
	"Akamai-Origin-Hop", "X-Akamai-Config-Log-Detail", "X-Akamai-Request-Id", "Eagleeye-TraceId", "Eagleeye-RpcId",
	"Fastly-FF", "Fly-Request-Id", "Fly-Traceparent", "Fly-Tracestate", "Incap-Req-Id", "L5d-Reqid", "MS-CV", "Rndr-Id",
	"X-Amz-Cf-Id", "X-Amz-Request-Id", "X-Amzn-RequestId", "X-Amzn-Request-Id", "X-Amzn-Trace-Id", "X-AppEngine-Request-Log-Id",
	"X-AppEngine-Request-Id-Hash", "X-AppGW-Trace-Id", "X-ARR-Log-Id", "X-Azure-Ref", "X-Azure-RequestChain",
	"X-Envoy-Attempt-Count", "X-Envoy-Expected-Rq-Timeout-Ms", "X-Envoy-Decorator-Operation",
	"X-FD-EventId", "X-FD-ImpressionGUID", "X-FD-Ref", "X-Github-Request-Id", "X-Kong-Request-Id",
	"X-MS-Client-Request-Id", "X-MS-Correlation-Request-Id", "X-MS-Request-Id", "X-MS-Request-Root-Id", "X-NF-Request-Id",
	"X-Railway-Request-Id", "X-Timer", "X-Varnish", "X-Vcap-Request-Id", "X-Vercel-Id",
}

// LikeCredentials reports whether a request field, by its canonical name, says on whose
// behalf a client asks: Authorization, Cookie, and what is named like a credential
// (X-Api-Key, X-Vault-Token, X-Session-Id) or tells whom a proxy has authenticated
// (X-Forwarded-User). To take a field for a credential that is none costs a few checks,
// the reverse shows answers to strangers.
func LikeCredentials(name string) bool {
	switch name {
	case "Accept", "Accept-Encoding", "Accept-Language", "Content-Type", "If-None-Match", "Prefer", "Referer", "User-Agent":
		return false // the usual ones need no search
	}
	for i := range len(name) {
		if c := name[i]; 'A' <= c && c <= 'Z' { // in a canonical name, where a word begins
			for _, word := range credentialWords[c-'A'] {
				if strings.HasPrefix(name[i:], word) {
					return true
				}
			}
		}
	}
	return false
}

// credentialWords are parts of the names of credentials, by their first letter.
var credentialWords = func() (words ['Z' - 'A' + 1][]string) {
	for _, word := range []string{
		"Auth", "Cookie", "Token", "Secret", "Session", "Api-Key", "Apikey", "Access-Key", "Subscription-Key", "Functions-Key",
		"Credential", "Jwt", "Oidc", "Passw", "Signature", "Client-Cert", "Clientcert", "Ssl-Client",
		"Forwarded-Email", "Forwarded-User", "Remote-User", "Webauth",
	} {
		words[word[0]-'A'] = append(words[word[0]-'A'], word)
	}
	return words
}()
