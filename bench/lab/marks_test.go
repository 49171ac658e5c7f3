package lab

import "testing"

func TestCounters(t *testing.T) {
	const snmp6 = "Ip6InReceives \t7\nIp6InCEPkts \t42\n"
	const netstat = "TcpExt: InCEPkts B\nTcpExt: 1 2\nIpExt: InNoRoutes InCEPkts Later\nIpExt: 3 44\n"
	if n, ok := counterOf6(snmp6, "Ip6InCEPkts"); !ok || n != 42 {
		t.Errorf("IPv6: %d, %v", n, ok)
	}
	if n, ok := counterOf4(netstat, "IpExt:", "InCEPkts"); !ok || n != 44 {
		t.Errorf("IPv4: %d, %v", n, ok)
	}
	if _, ok := counterOf6(snmp6, "Ip6InECT0Pkts"); ok {
		t.Error("a counter that is not there")
	}
	if _, ok := counterOf4(netstat, "IpExt:", "Later"); ok {
		t.Error("a counter without a number")
	}
}
