"""What data sets look like on a disk: public tables, folders of grades, pictures inside tables and arrays, DICOM."""
