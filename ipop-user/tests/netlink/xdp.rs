//! XDP attachment, with programs of two instructions.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use ipop_user::netlink::{Error, XdpMode};

use crate::net::{Net, virtual_device};

#[test]
fn an_xdp_program_is_attached_replaced_and_detached_but_never_stolen() {
    let Some(net) = Net::new("xdp") else { return };
    net.ip("link add e0 type veth peer name e1");
    net.run(async |netlink| {
        let ifindex = netlink.link("e0").await.unwrap().ifindex;
        let (first, second, third) = (xdp_program(), xdp_program(), xdp_program());
        let attach = async |program: &OwnedFd, mode, expected: Option<&OwnedFd>| {
            netlink.attach_xdp(ifindex, program.as_fd(), mode, expected.map(AsFd::as_fd)).await
        };
        let busy = |result: Result<(), Error>| match result {
            Err(Error::XdpBusy { device }) => assert_eq!(device, "e0"),
            other => panic!("{other:?}"),
        };
        for (mode, other_mode) in [(XdpMode::Native, XdpMode::Generic), (XdpMode::Generic, XdpMode::Native)] {
            assert_eq!(netlink.xdp(ifindex).await.unwrap(), None);
            attach(&first, mode, None).await.unwrap();
            let before = netlink.xdp(ifindex).await.unwrap().unwrap();
            assert_eq!(before.mode, mode);

            busy(attach(&second, mode, None).await);
            busy(attach(&second, other_mode, None).await);
            busy(attach(&second, mode, Some(&third)).await);
            busy(netlink.detach_xdp(ifindex, mode, Some(third.as_fd())).await);
            netlink.detach_xdp(ifindex, other_mode, None).await.expect("nothing of that mode is there");
            assert_eq!(netlink.xdp(ifindex).await.unwrap(), Some(before));

            attach(&second, mode, Some(&first)).await.unwrap();
            let after = netlink.xdp(ifindex).await.unwrap().unwrap();
            assert!(after.mode == mode && after.prog_id != before.prog_id, "{before:?} {after:?}");
            netlink.detach_xdp(ifindex, mode, Some(second.as_fd())).await.unwrap();
        }
        attach(&first, XdpMode::Native, None).await.unwrap();
        drop((first, second, third));
        assert!(netlink.xdp(ifindex).await.unwrap().is_some(), "it outlives its loader");
        netlink.detach_xdp(ifindex, XdpMode::Native, None).await.unwrap();
        netlink.detach_xdp(ifindex, XdpMode::Native, None).await.expect("none attached is no error");

        let ours = virtual_device(&netlink).await;
        let error = netlink.attach_xdp(ours, xdp_program().as_fd(), XdpMode::Native, None).await.unwrap_err();
        assert!(matches!(error, Error::XdpUnsupported { mode: "native", .. }), "{error}");
    });
}

/// `return XDP_PASS`.
fn xdp_program() -> OwnedFd {
    const BPF_PROG_LOAD: u32 = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    const MOV_R0_PASS: u64 = 2 << 32 | 0xb7;
    const EXIT: u64 = 0x95;
    #[repr(C)]
    struct Attributes {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 13],
    }
    let instructions = [MOV_R0_PASS, EXIT];
    let attributes = Attributes {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        rest: [0; 13],
    };
    // SAFETY: the attributes and what they point to live through the call, which only reads them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &attributes, size_of_val(&attributes)) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}
