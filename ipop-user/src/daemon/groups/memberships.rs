//! Which groups this host is a member of on a device, as the kernel lists them: that is what its IGMP and MLD
//! reports are made from, and is known without one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads the groups of the device with an index out of a list.
type Read = fn(&str, u32) -> BTreeSet<IpAddr>;

/// Of the calling thread's network namespace.
const LISTS: [(&str, Read); 2] =
    [("/proc/thread-self/net/igmp", igmp), ("/proc/thread-self/net/igmp6", igmp6)];

/// The groups of the device with this index. A list that the host does not have (it has no IPv6, say) is empty.
pub(super) fn of_device(ifindex: u32) -> BTreeSet<IpAddr> {
    let lists =
        LISTS.iter().filter_map(|(file, parse)| Some(parse(&std::fs::read_to_string(file).ok()?, ifindex)));
    lists.flatten().collect()
}

/// A line for each device, which begins with its index; those of its groups follow it, indented.
fn igmp(list: &str, ifindex: u32) -> BTreeSet<IpAddr> {
    let mut is_device = false;
    let mut groups = BTreeSet::new();
    for line in list.lines().skip(1) {
        let Some(first) = line.split_whitespace().next() else { continue };
        if !line.starts_with([' ', '\t']) {
            is_device = first.parse() == Ok(ifindex);
        } else if is_device && let Ok(group) = u32::from_str_radix(first, 16) {
            // As a number of the host's byte order.
            groups.insert(Ipv4Addr::from(group.to_ne_bytes()).into());
        }
    }
    groups
}

/// A line for each group: index and name of the device, the group.
fn igmp6(list: &str, ifindex: u32) -> BTreeSet<IpAddr> {
    let group = |line: &str| {
        let mut words = line.split_whitespace();
        let is_device = words.next()?.parse() == Ok(ifindex);
        let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        is_device.then(|| Ipv6Addr::from_bits(group).into())
    };
    list.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_lists_are_read() {
        let of = |last: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(last));
        let list = format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
             1\tlo        :     1      V3\n\t\t\t\t{}     1 0:00000000\t\t0\n\
             12\tipop0     :     2      V3\n\t\t\t\t{}     1 0:00000000\t\t1\n\t\t\t\t{}     1 0:00000000\t\t0\n",
            of([224, 0, 0, 1]),
            of([224, 0, 0, 251]),
            of([224, 0, 0, 1]),
        );
        let expected: [IpAddr; 2] = [[224, 0, 0, 1].into(), [224, 0, 0, 251].into()];
        assert_eq!(igmp(&list, 12), expected.into());
        assert_eq!(igmp(&list, 2), BTreeSet::new());
        let list = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
                    12   ipop0           ff0200000000000000000000000000fb     1 00000004 0\n";
        assert_eq!(igmp6(list, 12), ["ff02::fb".parse().unwrap()].into());
    }

    #[test]
    fn what_is_no_list_has_no_groups() {
        for text in ["", "Idx\n", "12\n\t\n12 x\n", "12 ipop0 zz\n\t\t\t\tGGGG 1\n"] {
            assert_eq!((igmp(text, 12), igmp6(text, 12)), (BTreeSet::new(), BTreeSet::new()), "{text:?}");
        }
        // This test's own namespace: whatever there is can be read.
        let _ = of_device(1);
    }
}
