virtio dev 0
load virtio 0:1 %{kernel.address} kernel
load virtio 0:1 %{ramdisk.address} ramdisk
load virtio 0:1 %{backend.address} backend
load virtio 0:1 %{machine.dtb.address} machine.dtb
load virtio 0:1 %{Image.address} Image
fdt addr %{machine.dtb.address}
fdt resize 1024
fdt set /chosen \#address-cells <0x2>
fdt set /chosen \#size-cells <0x2>
fdt set /chosen xen,xen-bootargs "console=dtuart dtuart=serial0 bootscrub=0 vwfi=native sched=null"
fdt mknod /chosen domU0
fdt set /chosen/domU0 compatible "xen,domain"
fdt set /chosen/domU0 \#address-cells <0x2>
fdt set /chosen/domU0 \#size-cells <0x2>
fdt set /chosen/domU0 memory <0x0 0x10000>
fdt set /chosen/domU0 cpus <1>
fdt set /chosen/domU0 vpl011 <0x1>
fdt mknod /chosen/domU0 module%{backend.address}
fdt set /chosen/domU0/module%{backend.address} compatible "multiboot,kernel" "multiboot,module"
fdt set /chosen/domU0/module%{backend.address} reg <0x0 %{backend.address} 0x0 %{backend.size}>
fdt set /chosen/domU0/module%{backend.address} bootargs "console=ttyAMA0"
fdt mknod /chosen domU1
fdt set /chosen/domU1 compatible "xen,domain"
fdt set /chosen/domU1 \#address-cells <0x2>
fdt set /chosen/domU1 \#size-cells <0x2>
fdt set /chosen/domU1 memory <0x0 0x80000>
fdt set /chosen/domU1 cpus <2>
fdt set /chosen/domU1 vpl011 <0x1>
fdt mknod /chosen/domU1 module%{kernel.address}
fdt set /chosen/domU1/module%{kernel.address} compatible "multiboot,kernel" "multiboot,module"
fdt set /chosen/domU1/module%{kernel.address} reg <0x0 %{kernel.address} 0x0 %{kernel.size}>
fdt set /chosen/domU1/module%{kernel.address} bootargs "console=ttyAMA0"
fdt mknod /chosen/domU1 module%{ramdisk.address}
fdt set /chosen/domU1/module%{ramdisk.address} compatible "multiboot,ramdisk" "multiboot,module"
fdt set /chosen/domU1/module%{ramdisk.address} reg <0x0 %{ramdisk.address} 0x0 %{ramdisk.size}>
fdt mknod /chosen/domU1 portunus,devices
fdt mknod /chosen/domU1/portunus,devices disk0
fdt set /chosen/domU1/portunus,devices/disk0 portunus,type "block"
fdt set /chosen/domU1/portunus,devices/disk0 portunus,backend "domU0"
fdt set /chosen/domU1/portunus,devices/disk0 portunus,ram-disk <0x10>
fdt set /chosen/domU1/portunus,devices/disk0 portunus,transport "mmio"
fdt set /chosen/domU1/portunus,devices/disk0 portunus,memory-access "all"
setenv fdt_high 0xffffffffffffffff
booti %{Image.address} - %{machine.dtb.address}
